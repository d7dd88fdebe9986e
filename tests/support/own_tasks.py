"""Tasks of the lm-evaluation-harness as users have them: YAML files next to their data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHOICE, WORDS, PAGES = "own_choice", "own_words", "own_pages"
QUESTIONS = ("What is blue?", "Who barks?", "Where is Rome?", "Why?", "How many legs has a spider? ")
METRICS = {
    CHOICE: [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    WORDS: [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    PAGES: [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
}


def save_tasks(folder: Path, *names: str, **more: Any) -> Path:
    """Save tasks with four choices, with a few words as answer, and with whole pages; `more` are further keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or METRICS:
        save_task(folder, name, **more)
    return folder


def save_task(folder: Path, kind: str, name: str | None = None, **more: Any) -> None:
    kinds: dict[str, dict[str, Any]] = {
        CHOICE: {
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        },
        WORDS: {
            "output_type": "generate_until",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["e", "<|end|>"], "max_gen_toks": 12},
        },
        PAGES: {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}"},
    }
    name = name or kind
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in documents(QUESTIONS)))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "metric_list": METRICS[kind],
        "metadata": {"version": 1.5},
        **kinds[kind],
        **more,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))  # which is YAML too


def documents(questions: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "question": question,
            "choices": ["the sky", "a", f"dogs, {index} of them", "No."],
            "answer": index % 4,
            "page": f"{question} " * (index * 12 + 1),  # the longest is longer than the model's context
        }
        for index, question in enumerate(questions)
    ]
