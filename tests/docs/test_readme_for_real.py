"""The README's "For real", as a reader types it: a broker, an aggregator, devices, and every command in between."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.generated import ROOT
from tests.docs.readme import command, commands, snippet, write_walkthrough

PRINTED_URL = "mqtt://127.0.0.1:1883"
PATIENCE_S = 60


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the README in one folder, with a broker on another port than the printed one."""

    folder: Path
    url: str = PRINTED_URL

    def environment(self, **more: str) -> dict[str, str]:
        """Return what the reader's terminal has set; devices keep their state below HOME."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
        return {"PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}

    def typed(self, words: Sequence[str]) -> list[str]:
        """Return a printed command as it runs here."""
        return [{"python": sys.executable, PRINTED_URL: self.url}.get(word, word) for word in words]

    @contextmanager
    def terminal(self, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Leave a command running in a terminal of its own."""
        environment = self.environment(**environment)
        with (
            (self.folder / "errors").open("a") as errors,
            subprocess.Popen(
                self.typed(words),
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environment = self.environment(FEDMQ__BROKER__URL=self.url)
        return subprocess.run(
            self.typed(words), cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def insists(self, run: subprocess.Popen[str], *words: str) -> dict[str, object]:
        """Run a command until it works, for `run` takes a moment to start; return what it says."""
        while (ended := self.types(*words, "--json")).returncode != 0:
            assert run.poll() is None, (self.folder / "errors").read_text()
        found: dict[str, object] = json.loads(ended.stdout)
        return found


@pytest.mark.timeout(240)
def test_for_real_works_as_printed(tmp_path: Path) -> None:
    """Devices learn over a broker; the run is checked, watched, paused, resumed, stopped, exported and loaded."""
    write_walkthrough(tmp_path, "torch")
    (tmp_path / "points.csv").write_text("".join(f"{x / 10},{3 * x / 10 - 1}\n" for x in range(10)))
    with ExitStack() as stack:
        reader = Reader(tmp_path)
        broker = stack.enter_context(reader.terminal(*command("broker"), "--port", "0", "--json"))
        assert broker.stdout is not None
        reader = Reader(tmp_path, json.loads(broker.stdout.readline())["url"])

        checked = reader.types(*command("check"))
        assert (checked.returncode, checked.stderr) == (0, "")
        assert "update_travels" in checked.stdout
        # longer than printed: it is the reader who stops it
        longer = {"FEDMQ__BROKER__URL": reader.url, "FEDMQ__STOP__ROUNDS": "100000"}
        run = stack.enter_context(reader.terminal(*command("aggregator", "run"), **longer))
        watch = stack.enter_context(reader.terminal(*command("watch"), FEDMQ__BROKER__URL=reader.url))
        assert reader.insists(run, *command("pause"))["run"] == "line"
        assert reader.types(*command("resume")).returncode == 0
        devices = [
            stack.enter_context(reader.terminal(*command("edge_client", option))) for option in ("--devices", "--data")
        ]
        while int(str(reader.insists(run, *command("resume"))["version"])) < 3:
            assert not [device.args for device in devices if device.poll() is not None]
        if shutil.which("mosquitto_sub"):
            heard = reader.types(*command("mosquitto_sub"), "-p", reader.url.rpartition(":")[2], "-C", "4", "-W", "20")
            assert "fl/v1/line/from/pi-7/status" in heard.stdout
        assert reader.types(*command("stop")).returncode == 0
        said, _ = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0
        assert "line: finished by operator" in said
        shown, _ = watch.communicate(timeout=PATIENCE_S)
        assert (watch.returncode, "finished" in shown) == (0, True)
        left = {path.name for path in (tmp_path / "runs/line").iterdir()}
        assert {"final.safetensors", "best.safetensors", "history.jsonl", "history.png"} <= left

        for looks in ("repair", "outbox"):
            looked = reader.types(*command(looks))
            assert (looked.returncode, looked.stderr) == (0, "")
        assert reader.types(*command("conditions")).returncode == 0
        explained = [reader.types(*each) for each in commands() if "explain" in each]
        assert [(each.returncode, each.stderr) for each in explained] == [(0, "")] * 3
        assert "counted for version 3" in explained[1].stdout  # of whoever was drawn: pi-7 need not be
        assert "Jain's index" in explained[2].stdout
        assert reader.types(*command("export")).returncode == 0
        loaded = reader.types("python", "-c", snippet("from safetensors") + "print(net.weight.item())")
        assert (loaded.returncode, loaded.stderr) == (0, "")
        assert float(loaded.stdout) == pytest.approx(3, abs=0.5)
        for process in (*devices, broker):
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
