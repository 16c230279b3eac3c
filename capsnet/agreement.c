/* One iteration of routing by agreement, and its gradients, in float32: what capsnet/agreement.py computes
 * with PyTorch's operations, where an instruction works on the same number of several images.
 *
 * Letters of shapes as there: I input capsules, K their dimension, J output capsules, D their dimension,
 * B batch, which is cut into strips of STRIP images: [B/STRIP, J, D, STRIP] is "in strips".
 *
 * The predictions of one input capsule for a strip are made in registers and stay in the first cache. Each
 * slab has its own input capsules and sums, so that what is added up in which order depends on the number
 * of slabs alone, and not on how threads are scheduled. They are the threads of PyTorch's own OpenMP.
 */

#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ORDER 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define TILE 8 /* rows at a time: twice as many vectors are summed up in registers */
#elif defined(__AVX__)
#define LANES 8
#define ORDER 0, 1, 2, 3, 4, 5, 6, 7
#define TILE 4
#else
#define LANES 4
#define ORDER 0, 1, 2, 3
#define TILE 4
#endif
#define STRIP (2 * LANES)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline)) void /* in one function they would lack registers */

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* in memory */
typedef unsigned Bits __attribute__((vector_size(4 * LANES)));

typedef struct {
    const float *capsules; /* [I, K, B] */
    const float *weight;   /* [J, I, K, D] */
    const float *outputs;  /* in strips, and so is the gradient */
    const float *gradient; /* of what is collected; NULL: collect, and compute no gradients */
    float *sums;           /* in strips, for each slab: what is collected, or the gradient of the outputs */
    float *of_capsules;    /* gradients, as what they are of */
    float *of_weight;
    float *room; /* [chunk, J, D, STRIP], [2, J, STRIP] and [STRIP, STRIP] for each slab */
    long inputs, dim, classes, class_dim, strips, slabs;
    long chunk; /* strips at a time */
    int none_of_the_above, constant_couplings;
} Task;

extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
extern int omp_get_thread_num(void), omp_get_num_threads(void);

const int images_of_a_strip = STRIP;

INLINE Vector load(const float *from) { return *(const Loose *)from; }

INLINE void store(float *to, Vector values) { *(Loose *)to = values; }

INLINE Vector either(Bits which, Vector one, Vector other) {
    return (Vector)(((Bits)one & which) | ((Bits)other & ~which));
}

INLINE Vector larger(Vector one, Vector other) { return either((Bits)(one > other), one, other); }

/* e^x for x <= 0, to 2 units of the last place; NaN for NaN. Below -87 it is 2^-126, about the same. */
INLINE Vector exponential(Vector x) {
    const float ROUND = 12582912; /* 1.5 · 2^23: what is added to it loses its fraction */
    x = either((Bits)(x < -87.0f), (Vector){} - 87.0f, x);
    Vector shifted = x * 1.44269504f + ROUND, twos = shifted - ROUND;
    Vector rest = x - twos * 0.693145752f; /* ln 2 in two parts */
    rest -= twos * 1.42860677e-6f;
    Vector sum = rest * (1.0f / 5040) + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return sum * (Vector)(((Bits)shifted << 23) + 0x3f800000u);
}

/* Logits [J, STRIP] become couplings. */
NOINLINE softmax(float *logits, long classes, int none_of_the_above) {
    for (int half = 0; half < STRIP; half += LANES) {
        float *of = logits + half;
        Vector largest = none_of_the_above ? (Vector){} : load(of), sum = {};
        for (long j = 0; j < classes; j++) largest = larger(load(of + j * STRIP), largest);
        if (none_of_the_above) sum = exponential(-largest);
        for (long j = 0; j < classes; j++) {
            Vector share = exponential(load(of + j * STRIP) - largest);
            sum += share;
            store(of + j * STRIP, share);
        }
        Vector scale = 1.0f / sum;
        for (long j = 0; j < classes; j++) store(of + j * STRIP, load(of + j * STRIP) * scale);
    }
}

/* `rows` dimensions of the predictions of one output capsule: weight [K, D] at the first of them, the input
 * capsule's K numbers `batch` apart. Adds their products with the outputs, and with the gradient, to seen. */
INLINE void predict(const int rows, const int backward, const Task *task, const float *weight,
                    const float *capsule, const float *outputs, const float *gradient, float *made,
                    Vector seen[4]) {
    Vector sums[TILE][2] = {};
    for (long k = 0; k < task->dim; k++) {
        Vector left = load(capsule), right = load(capsule + LANES);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            sums[row][0] += weight[row] * left;
            sums[row][1] += weight[row] * right;
        }
        weight += task->class_dim;
        capsule += task->strips * STRIP;
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            long at = row * STRIP + half * LANES;
            store(made + at, sums[row][half]);
            seen[half] += sums[row][half] * load(outputs + at);
            if (backward) seen[2 + half] += sums[row][half] * load(gradient + at);
        }
    }
}

/* The predictions [J, D, STRIP] of an input capsule and their couplings [J, STRIP]; `backward` their products
 * with the gradient, too. */
INLINE void look(const int backward, const Task *task, const float *weight, const float *capsule,
                 const float *outputs, const float *gradient, float *made, float *couplings, float *agreed) {
    const long class_dim = task->class_dim;
    for (long j = 0; j < task->classes; j++) {
        Vector seen[4] = {};
        long d = 0, at = j * class_dim * STRIP;
        for (; d + TILE <= class_dim; d += TILE, at += TILE * STRIP)
            predict(TILE, backward, task, weight + d, capsule, outputs + at, gradient + at, made + at, seen);
        for (; d < class_dim; d++, at += STRIP)
            predict(1, backward, task, weight + d, capsule, outputs + at, gradient + at, made + at, seen);
        for (int half = 0; half < 2; half++) {
            store(couplings + j * STRIP + half * LANES, seen[half]);
            if (backward) store(agreed + j * STRIP + half * LANES, seen[2 + half]);
        }
        weight += task->inputs * task->dim * class_dim;
    }
    softmax(couplings, task->classes, task->none_of_the_above);
}

static void collect(const Task *task, long first, long last, float *sums, float *room) {
    const long dim = task->dim, class_dim = task->class_dim, size = task->classes * class_dim * STRIP;
    float *made = room, *couplings = room + task->chunk * size;
    for (long i = first; i < last; i++)
        for (long strip = 0; strip < task->strips; strip++) {
            const float *capsule = task->capsules + i * dim * task->strips * STRIP + strip * STRIP;
            const float *outputs = task->outputs + strip * size;
            float *sum = sums + strip * size, *prediction = made;
            look(0, task, task->weight + i * dim * class_dim, capsule, outputs, outputs, made, couplings,
                 couplings);
            for (long j = 0; j < task->classes; j++) {
                Vector left = load(couplings + j * STRIP), right = load(couplings + j * STRIP + LANES);
                for (long d = 0; d < class_dim; d++, sum += STRIP, prediction += STRIP) {
                    store(sum, load(sum) + left * load(prediction));
                    store(sum + LANES, load(sum + LANES) + right * load(prediction + LANES));
                }
            }
        }
}

/* Couplings, and their gradients, which become those of the logits. */
NOINLINE of_logits(const Task *task, const float *couplings, float *agreed) {
    for (int half = 0; half < STRIP; half += LANES) {
        Vector mean = {};
        for (long at = half; at < task->classes * STRIP; at += STRIP)
            mean += load(couplings + at) * load(agreed + at);
        for (long at = half; at < task->classes * STRIP; at += STRIP)
            store(agreed + at, load(couplings + at) * (load(agreed + at) - mean));
    }
}

/* Predictions become their gradients; adds to that of the outputs. */
NOINLINE of_predictions(const Task *task, const float *couplings, const float *of_logit, const float *outputs,
                        const float *gradient, float *made, float *of_outputs) {
    for (long j = 0; j < task->classes; j++)
        for (long d = 0; d < task->class_dim; d++)
            for (int half = 0; half < 2; half++) {
                long small = j * STRIP + half * LANES, at = (j * task->class_dim + d) * STRIP + half * LANES;
                Vector found = load(couplings + small) * load(gradient + at);
                if (!task->constant_couplings) {
                    Vector logit = load(of_logit + small);
                    store(of_outputs + at, load(of_outputs + at) + logit * load(made + at));
                    found += logit * load(outputs + at);
                }
                store(made + at, found);
            }
}

/* The gradients of `rows` of the input capsule's K numbers, from those of the predictions. */
INLINE void of_rows(const int rows, const Task *task, const float *weight, const float *of_prediction,
                    float *found) {
    const long class_dim = task->class_dim;
    Vector sums[TILE][2] = {};
    for (long j = 0; j < task->classes; j++) {
        for (long d = 0; d < class_dim; d++, of_prediction += STRIP) {
            Vector left = load(of_prediction), right = load(of_prediction + LANES);
#pragma GCC unroll 8
            for (int row = 0; row < rows; row++) {
                sums[row][0] += weight[row * class_dim + d] * left;
                sums[row][1] += weight[row * class_dim + d] * right;
            }
        }
        weight += task->inputs * task->dim * class_dim;
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++, found += task->strips * STRIP) {
        store(found, sums[row][0]);
        store(found + LANES, sums[row][1]);
    }
}

/* The gradients of an input capsule. */
NOINLINE of_capsule(const Task *task, const float *weight, const float *of_prediction, float *found) {
    const long batch = task->strips * STRIP, class_dim = task->class_dim;
    long k = 0;
    for (; k + TILE <= task->dim; k += TILE)
        of_rows(TILE, task, weight + k * class_dim, of_prediction, found + k * batch);
    for (; k < task->dim; k++) of_rows(1, task, weight + k * class_dim, of_prediction, found + k * batch);
}

#ifdef __clang__ /* understands a loop over lanes; GCC has to be told */
INLINE Vector permuted(Vector one, Vector other, Bits from) {
    Vector found;
#pragma unroll
    for (int lane = 0; lane < LANES; lane++)
        found[lane] = from[lane] < LANES ? one[from[lane]] : other[from[lane] - LANES];
    return found;
}
#else
#define permuted __builtin_shuffle
#endif

/* A lane gets the sum of two, itself and its neighbour at `step`: of `other` where its number has that bit,
 * else of `one`. */
INLINE Vector folded(Vector one, Vector other, const unsigned step) {
    const Bits lanes = {ORDER}, of = (Bits)((lanes & step) != 0) & LANES;
    const Bits kept = of + lanes, moved = of + (lanes ^ step); /* which lanes of both */
    return permuted(one, other, kept) + permuted(one, other, moved);
}

/* Sums over the images of the products of one row with LANES others: a lane for each of these. */
INLINE Vector products(const float *row, const float *others, long strips, long size) {
    Vector sums[LANES] = {};
    for (long strip = 0; strip < strips; strip++, row += STRIP, others += size)
#pragma GCC unroll 2
        for (int half = 0; half < STRIP; half += LANES) {
            Vector one = load(row + half);
#pragma GCC unroll 16
            for (int n = 0; n < LANES; n++) sums[n] += one * load(others + n * STRIP + half);
        }
#pragma GCC unroll 4
    for (int step = LANES / 2; step > 0; step /= 2)
#pragma GCC unroll 8
        for (int n = 0; n < step; n++) sums[n] = folded(sums[n], sums[n + step], step);
    return sums[0];
}

/* The gradient of the weights of an input capsule, or what these strips add to it. */
NOINLINE of_weights(const Task *task, const float *capsule, const float *of_prediction, long strips, int more,
                    float *found) {
    const long rows = task->classes * task->class_dim, class_dim = task->class_dim;
    const long stride = task->inputs * task->dim * class_dim;
    for (long row = 0; row < rows; row += LANES)
        for (long k = 0; k < task->dim; k++) {
            Vector sums = products(capsule + k * task->strips * STRIP, of_prediction + row * STRIP, strips,
                                   rows * STRIP);
            if (class_dim % LANES == 0) {
                float *to = found + row / class_dim * stride + k * class_dim + row % class_dim;
                store(to, more ? load(to) + sums : sums);
                continue;
            }
            for (int lane = 0; lane < LANES && row + lane < rows; lane++) {
                long j = (row + lane) / class_dim, d = (row + lane) % class_dim;
                float *to = found + j * stride + k * class_dim + d;
                *to = more ? *to + sums[lane] : sums[lane];
            }
        }
}

static void collect_backward(const Task *task, long first, long last, float *sums, float *room) {
    const long dim = task->dim, class_dim = task->class_dim, size = task->classes * class_dim * STRIP;
    const long batch = task->strips * STRIP;
    float *couplings = room + task->chunk * size, *agreed = couplings + task->classes * STRIP;
    for (long begin = 0; begin < task->strips; begin += task->chunk) {
        long end = begin + task->chunk < task->strips ? begin + task->chunk : task->strips;
        for (long i = first; i < last; i++) {
            const float *weight = task->weight + i * dim * class_dim;
            const float *capsule = task->capsules + i * dim * batch;
            for (long strip = begin; strip < end; strip++) {
                const float *outputs = task->outputs + strip * size;
                const float *gradient = task->gradient + strip * size;
                float *made = room + (strip - begin) * size;
                float *found = task->of_capsules + i * dim * batch + strip * STRIP;
                look(1, task, weight, capsule + strip * STRIP, outputs, gradient, made, couplings, agreed);
                if (!task->constant_couplings) of_logits(task, couplings, agreed);
                of_predictions(task, couplings, agreed, outputs, gradient, made, sums + strip * size);
                of_capsule(task, weight, made, found);
            }
            of_weights(task, capsule + begin * STRIP, room, end - begin, begin > 0,
                       task->of_weight + i * dim * class_dim);
        }
    }
}

static void work(void *given) {
    const Task *task = given;
    const long size = task->classes * task->class_dim * STRIP;
    const long room = task->chunk * size + 2 * task->classes * STRIP + STRIP * STRIP;
    for (long slab = omp_get_thread_num(); slab < task->slabs; slab += omp_get_num_threads()) {
        long first = task->inputs * slab / task->slabs, last = task->inputs * (slab + 1) / task->slabs;
        float *sums = task->sums + slab * task->strips * size;
        memset(sums, 0, sizeof(float) * task->strips * size);
        (task->gradient ? collect_backward : collect)(task, first, last, sums, task->room + slab * room);
    }
}

void run(Task *task) { GOMP_parallel(work, task, task->slabs, 0); }
