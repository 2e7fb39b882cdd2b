"""The samples of a calibration, as JSON. Usage: python -m benchmarks.common.tokens CALIBRATION"""

import json
import sys
from pathlib import Path

from glmquant.store.calibration import read_calibration

if __name__ == "__main__":
    print(json.dumps(read_calibration(Path(sys.argv[1])).samples.tokens_SL.tolist()))
