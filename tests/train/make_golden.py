"""Write golden.json: the losses of ten steps for every family and objective, on one thread, in fp32.

Run it (python tests/train/make_golden.py) only when the mathematics has changed on purpose, and say why in the commit.
"""

import json
import tempfile
from pathlib import Path

import torch
from tiny_runs import CASES, tiny

GOLDEN = Path(__file__).parent / "golden.json"


def losses(case, folder):
    """The loss of each of ten steps."""
    tiny(case, Path(folder)).fit()
    written = [json.loads(text) for text in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in written if "norm" in line]


def main():
    torch.set_num_threads(1)
    golden = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            golden[case] = [round(loss, 6) for loss in losses(case, folder)]
    GOLDEN.write_text(json.dumps(golden, indent=1).replace("\n  ", " ").replace("\n ]", "]") + "\n")


if __name__ == "__main__":
    main()
