"""What is in an assessment's `verdict.json` that its writer and its readers have to agree on."""

from typing import Final

FILE: Final = "verdict.json"
MOST_ROWS: Final = 10
# The restrictions of the ledger, from the ceiling down to what the clock says.
STATE, KNOWING, PROOF, DECIDING, BATCHES, OVERHEAD = RESTRICTIONS = (
    "state", "knowing", "proof", "deciding", "batches", "overhead",
)  # fmt: skip
MODEL: Final = "model"  # the cause where the oracle itself saves nothing
MEANINGS: Final = {
    STATE: "what exits leave behind misleads later tokens",
    KNOWING: "online rules do not know which tokens may leave",
    PROOF: "it is not proven, with so many prompts",
    DECIDING: "deciding costs too much",
    BATCHES: "a step of so many rows hardly takes less time with fewer layers",
    OVERHEAD: "the clock gives less than the steps allow",
    MODEL: "the model's tokens agree with full depth too late",
}
