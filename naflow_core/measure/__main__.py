"""The new process of `first_explanations`: takes what is asked as JSON, prints a report as JSON."""

import json
import sys

from naflow_core.measure.fresh import report_first

if __name__ == "__main__":
    sys.stdout.write(json.dumps(report_first(json.loads(sys.argv[1]))) + "\n")
