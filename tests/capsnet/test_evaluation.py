import torch

from capsnet.evaluation import confusion


def test_a_confusion_matrix_has_a_row_for_each_true_class_and_a_column_for_each_answer():
    labels, answers = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    assert confusion(labels, answers, 4).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
