"""Promises of docker/ and docs/cluster.md that can be checked without Docker."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from end_to_end.compose import FOLDER, Unset, services, substitute
from end_to_end.harness import understand

ROOT = FOLDER.parent
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
SECRETS = {"POSTGRES_PASSWORD": "secret", "RAY_AUTH_TOKEN": "token"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("${SET}", "value"),
        ("a${SET}b${SET}", "avaluebvalue"),
        ("${UNSET:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY-default}", ""),
        ("${UNSET-}", ""),
        ("$$HOME", "$HOME"),
    ],
)
def test_variables_are_put_in_as_docker_does(text: str, meant: str) -> None:
    assert substitute(text, {"SET": "value", "EMPTY": ""}) == meant


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("missing", [{}, {"POSTGRES_PASSWORD": "", "RAY_AUTH_TOKEN": ""}])
def test_nothing_starts_without_its_secrets(secret: str, missing: dict[str, str]) -> None:
    others = {name: value for name, value in SECRETS.items() if name != secret}
    with pytest.raises(Unset, match=rf"{secret}: set it in docker/\.env"):
        services({**missing, **others})


def test_the_example_of_the_secrets_has_no_value_for_any() -> None:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == {f"{name}=" for name in SECRETS}


def test_no_port_is_open_to_the_network_unless_asked() -> None:
    ports = [port for service in services(SECRETS).values() for port in service.settings.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    asked = services({**SECRETS, "BIND_ADDRESS": "0.0.0.0"})
    assert asked["mlflow"].settings["ports"] == ["0.0.0.0:5000:5000"]


def test_secrets_stand_in_variables_and_on_no_command_line() -> None:
    for service in services(SECRETS).values():
        words = " ".join([*service.command, *service.check])
        assert not any(secret in words for secret in SECRETS.values())


def test_every_service_says_when_it_is_well_and_waits_for_what_it_needs() -> None:
    found = services(SECRETS)
    order = [*found]
    for name, service in found.items():
        assert service.check or name == "cli"
        for needed, how in service.settings.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert order.index(needed) < order.index(name)


def test_what_ray_runs_sees_the_same_folders_and_variables_on_every_node() -> None:
    found = services(SECRETS)
    head, worker = found["head"], found["worker"]
    assert head.folders == worker.folders
    differing = {key for key in head.environment if head.environment[key] != worker.environment.get(key)}
    assert differing == {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"}
    assert head.environment["RUNNER_HOME"] == head.folders["runs"]


def test_a_worker_has_longer_to_stop_than_its_runs_have_to_save() -> None:
    worker = services(SECRETS)["worker"]
    grace = int(worker.settings["stop_grace_period"].removesuffix("s"))
    assert grace >= float(worker.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) + 20


def test_the_file_for_gpus_changes_the_workers_and_nothing_else() -> None:
    base, gpus = services(SECRETS), services(SECRETS, FOLDER / "compose.gpu.yaml")
    assert set(gpus) == {"worker"} <= set(base)
    (device,) = gpus["worker"].settings["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_all_that_services_run_from_the_image_is_copied_into_it() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    for service in services(SECRETS).values():
        for word in (*service.command, *service.check):
            if word.startswith("/app/docker/"):
                file = word.removeprefix("/app/")
                assert (ROOT / file).exists()
                assert file in dockerfile
                assert f"!{file}" in (ROOT / ".dockerignore").read_text()


def test_the_image_names_no_index_and_no_version_of_its_own() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert dockerfile.count("--constraint constraints.txt") == 2
    assert re.findall(r"https://\S+", dockerfile) == ["https://download.pytorch.org/whl/cpu"]
    assert "USER 1000" in dockerfile


@pytest.mark.parametrize("script", ["head"])
def test_scripts_are_understood_by_the_shell(script: str) -> None:
    checked = subprocess.run(["sh", "-n", FOLDER / script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def commands() -> list[str]:
    """Every command of ours in the guide, also those that Compose or kubectl run in a container."""
    lines = re.findall(r"python -m runner ([^`\n#']*)", GUIDE) + re.findall(r" cli ((?!-C)[^`\n#]+)", GUIDE)
    return sorted({re.split(r"\s{2,}|;| &&", line)[0].strip() for line in lines})


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_guide_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *words = shlex.split(command)
    understand(name, words)


@cache
def messages() -> str:
    """Every text of the code, a line each, with `...` for what is put in, and without backquotes."""
    texts: list[str] = []
    for file in (file for package in ("runner", "capsnet") for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(_text(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts).replace("`", "")


def _text(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "..."


def complaints() -> list[str]:
    """The lines of ours that the guide explains, by their longest part without anything put in."""
    table = GUIDE[GUIDE.index("| it says |") :].split("\n\n")[0].splitlines()[2:]
    cells = [line.split(" | ")[0] for line in table]
    told = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if "(MLflow" not in cell]
    parts = [re.split(r"\.\.\.|\d+|/\S+", text.replace("ModuleNotFoundError", "")) for text in told]
    return [longest for part in parts if len(longest := max(part, key=len).strip(" ;:,()")) > 2]


@pytest.mark.parametrize("complaint", complaints())
def test_the_guide_quotes_what_the_code_says(complaint: str) -> None:
    assert complaint in messages()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_the_batch_script_of_the_guide_is_understood_by_the_shell(tmp_path: Path) -> None:
    (script,) = blocks("bash")
    (tmp_path / "job").write_text(script)
    checked = subprocess.run(["bash", "-n", tmp_path / "job"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def pods() -> list[dict[str, Any]]:
    """The two kinds of pods of the guide's RayCluster."""
    (text,) = blocks("yaml")
    *_, cluster = yaml.safe_load_all(text)
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_pods_of_the_guide_have_the_variables_of_the_compose_file() -> None:
    by_kuberay = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED"}
    expected = set(services(SECRETS)["worker"].environment) - by_kuberay - {"GRPC_DNS_RESOLVER"}
    for pod in pods():
        (container,) = pod["containers"]
        assert {variable["name"] for variable in container["env"]} == expected
        assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]
        assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
