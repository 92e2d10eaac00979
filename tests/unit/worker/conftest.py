import sys
from pathlib import Path

# the stand-ins beside the tests are imported by name
sys.path.insert(0, str(Path(__file__).parent))
