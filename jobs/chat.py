"""Have a conversation with a model under a setting that was taken home, each token in the colour of its exit layer.

    python jobs/chat.py settings/mine
    python jobs/chat.py settings/mine --beside-normal        full depth answers every question too
    echo "What is the capital of Italy?" | python jobs/chat.py settings/mine

Questions are lines; /normal has full depth answer beside from then on, or no longer, and an empty line ends. Where the
conversation fills the model's context, its oldest questions and answers are left out. Answers are greedy, and their
tokens per second are counted from the second token on, of one row on this machine as it is.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from io import TextIOWrapper

from rich.console import Console

from cluster.console.command import command
from cluster.console.flags import whole
from cluster.console.parser import Parser


@command()
def main(arguments: Sequence[str]) -> int:
    """0: it ended. 1: it stopped. 2: the input can't be used."""
    flags = read_flags(arguments)
    from cluster.console.conversation import Conversation
    from eexit.custom_generate.setting import load
    from eexit.custom_generate.taken import config_of
    from eexit.model.loading import load_model_and_tokenizer

    setting = load(flags.setting, packed=flags.packed)
    taken = setting.taken
    dtype, measured = next(iter(taken.model.measured.items()))
    config = config_of(taken, setting.folder).model_copy(update={"dtype": dtype})
    model, tokenizer = load_model_and_tokenizer(config, measured.device)
    system = taken.prompts.system if flags.system is None else flags.system
    console = Console(highlight=False)
    conversation = Conversation(model, tokenizer, setting, console, system, flags.max_new_tokens, flags.beside_normal)
    conversation.introduce()
    for line in lines(console):
        conversation.take(line)
    return 0


def lines(console: Console) -> Iterator[str]:
    """The lines that are typed, or given on standard input, up to an empty one. One that is no text is refused."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            line = console.input("\n> ").strip()
        except EOFError:
            console.print()
            return
        if not line:
            return
        text = line.encode(errors="surrogateescape").decode(errors="replace")
        if not sys.stdin.isatty():
            console.print(text, markup=False)
        if text == line:
            yield line
        else:
            console.print("that line is not UTF-8 text, and is not asked")


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = Parser(__doc__)
    parser.add_argument("setting", help="folder that jobs/take_home.py made")
    parser.add_argument("--beside-normal", action="store_true", help="have full depth answer every question too")
    parser.add_argument("--system", metavar="TEXT", help="system prompt (default: the sweep's)")
    parser.add_argument("--max-new-tokens", type=whole, default=256, metavar="N", help="of an answer (default: 256)")
    parser.add_argument(
        "--packed", action="store_true", help="copy linear layers into a layout that CPUs compute faster with"
    )
    return parser.read(arguments)


if __name__ == "__main__":
    sys.exit(main())
