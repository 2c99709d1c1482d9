"""Names of the files in a data folder that more than one maker of training data reads."""

from __future__ import annotations

ASKED = (  # reading sets whose questions are trained on
    "squad/train.jsonl.gz",
    "reading/squadshifts_reddit.jsonl.gz",
    "reading/squadshifts_amazon_reviews.jsonl.gz",
    "reading/quoref.jsonl.gz",
    "reading/policyqa.jsonl.gz",
    "reading/adversarial_qa.jsonl.gz",
)
ABSTRACTS = "reading/pubmedqa.jsonl.gz"
TASK_FILES = ("sni/train.jsonl.gz", "sni/extra.jsonl.gz")
PROMPTED = "t0/train.jsonl.gz"
