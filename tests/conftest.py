"Shared by all tests: offline, and the real samples where a checkout of them lies beside the repository"
import os
os.environ.setdefault("HF_HUB_OFFLINE", "1")
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="session")
def shared():
    "The folder of real samples; a test that needs it is skipped where it is not"
    folder = ROOT.parent/"shared"/"data"
    if not folder.is_dir(): pytest.skip("no folder of real samples beside this checkout")
    return folder

@pytest.fixture(scope="session")
def frame():
    "A rendered frame (144, 144, 3) uint8"
    from reasonflow.world import Tabletop
    return Tabletop(144).reset(seed=400_001)[0]["image"]
