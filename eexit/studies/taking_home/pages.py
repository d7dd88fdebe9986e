"""What stands beside a setting: a README for whoever gets the folder, and the files of a repository on the Hub."""

from eexit.custom_generate.taken import README, Taken
from eexit.custom_generate.words import described
from eexit.model.sources import DEFAULT_MODEL
from eexit.output.locations import shown
from eexit.output.text import with_versions

GENERATE = '''"""Generates with the setting in this repository: `custom_generate="{hub}"`, by the package eexit."""

from functools import cache
from pathlib import Path

import eexit

REPOSITORY = "{hub}"


@cache
def setting():
    from huggingface_hub import snapshot_download

    is_folder = Path(REPOSITORY).is_dir()
    return eexit.load(REPOSITORY if is_folder else snapshot_download(REPOSITORY))


def generate(model, **arguments):
    return setting().generate(model, **arguments)
'''


def readme(taken: Taken, out: str) -> dict[str, str]:
    """The README, by its name."""
    model = taken.model
    facts = "\n".join(f"- {line}" for line in described(taken).splitlines())
    loading, made = _loading(taken), with_versions(taken.versions)
    text = f"""# {taken.key} of {model.name}

A setting for early exit: tokens that are certain after a few layers skip the others. It was taken home from a sweep by
[eexit](https://pypi.org/project/eexit/), and runs in `generate` of transformers:

```python
{loading}
setting = eexit.load({shown(out)!r})  # this folder
output = model.generate(**inputs, custom_generate=setting)
```

{facts}

`model` has to be {model.name}, loaded as above: a digest of its weights is compared with that in `setting.json` when it
is used first, and any other model is refused. It stays as it was. Made {taken.made} with {made}.
"""
    return {README: text}


def _loading(taken: Taken) -> str:
    """The lines of Python that load the model."""
    model, dtype = taken.model, next(iter(taken.model.measured))
    if model.name == DEFAULT_MODEL or model.name.lower().endswith(".gguf"):
        given = "" if model.name == DEFAULT_MODEL else f"{model.name!r}, "
        return f"import eexit\n\nmodel, tokenizer = eexit.load_default_model_and_tokenizer({given}dtype={dtype!r})"
    revision = f", revision={model.revision!r}" if model.revision else ""
    return (
        "import eexit\nimport torch\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({model.name!r}{revision}, dtype=torch.{dtype}).eval()"
    )


def hub_files(hub: str | None) -> dict[str, str]:
    """The files that make the folder a repository of `custom_generate`, by name; none without a repository's name."""
    if hub is None:
        return {}
    return {"custom_generate/generate.py": GENERATE.format(hub=hub), "custom_generate/requirements.txt": "eexit\n"}
