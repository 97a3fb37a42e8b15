"""`obd run` by crun, which wants the one hierarchy of control groups that systemd gives a guest."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.servers import Registry
from tests.e2e.test_obd_run import Host, build

pytestmark = [
    pytest.mark.guest("uml"),
    pytest.mark.skipif(not shutil.which("crun"), reason="not installed: crun"),
]


def test_containers_run_by_crun_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1}
    (tmp_path / "service.json").write_text(json.dumps({"cacheConfig": cache}))
    with Registry(tmp_path / "registry") as registry:
        build(tmp_path / "registry", registry)
        host = Host(tmp_path, registry)
        said = host.sh("cat /etc/name; echo $COLOUR; id -un; exit 3", "--runtime", "crun", "--rw")
        assert (said.out, said.status) == ("two\ngreen\nworker\n", 3), said.err
        assert not host.left()
