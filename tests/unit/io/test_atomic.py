import os
from pathlib import Path

import pytest

from streamrecon.io import atomic_path


def test_replaces_the_old_file_only_when_the_body_is_done(tmp_path: Path) -> None:
    target = tmp_path / "new" / "map.mrc"
    with atomic_path(target) as temporary:
        temporary.write_text("first")
        assert temporary.parent == target.parent
        assert temporary.name.startswith(f".map.mrc.tmp-{os.getpid()}-")
        assert not target.exists()
    with atomic_path(target) as temporary:
        temporary.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert [p.name for p in target.parent.iterdir()] == ["map.mrc"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "map.mrc"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["map.mrc"]
