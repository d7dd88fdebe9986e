"""What of a text counts as its answer and whether it is right, and the columns that follow."""

import random
import time
from pathlib import Path

import pytest
from byte_model import save_byte_model
from rich.console import Console

from cluster.console.closing_table import closing_table
from eexit.generator import ModelGenerator
from eexit.method.rules import Control
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.configuration import Exit
from eexit.plan.runs import configurations, plan_runs
from eexit.quality import answers
from eexit.quality.answer_types import choices_of
from eexit.quality.answers import Mark, SlowPatternError, is_same, mark
from eexit.results.means import figures
from eexit.results.store.folder import open_store
from eexit.results.store.landing import land

CHOICES = "Which is the capital of France?\nA) Rome\nB) Paris\nC) Berlin\nD) New York\nAnswer with the letter."

SUM = "Calculate 10 - 5."
PRODUCT = "Calculate 6 × 7."
APPLES = "Anna has 3 apples and buys 4 more. How many apples does she have?"
SWEETS = "Four friends share 12 sweets equally. How many sweets does each of them get?"
HALF = "What is half of 1?"
POPULATION = "How many people live in the city?"
CAPITAL = "What is the capital of Italy?"
NOVEL = "Who wrote the novel Pride and Prejudice?"
PHONE = "Call 555-0142 before noon.\n\nWhat is the telephone number?"
FRUIT = "Which of these is a fruit? (A) Carrot, (B) Apple, (C) Potato or (D) Onion?"
COLOUR = "Which of these is a colour? (A) Blue, (B) Chair, (C) River or (D) Bread?"
WATER = "At what temperature does water freeze? (A) 0 °C, (B) 50 °C, (C) 100 °C or (D) -40 °C?"
EVEN = "Which number is even? (A) 3, (B) 7, (C) 9 or (D) 8?"
VITAMIN = "Which vitamin do carrots have much of?"

# Question, answer, text, and whether a careful reader calls the text right.
TEXTS: list[tuple[str, str, str, bool]] = [
    # Numbers: how they are written.
    (SUM, "5", "5", True),
    (SUM, "5", "The answer is 5.", True),
    (SUM, "5", "**5**", True),
    (SUM, "5", "10 - 5 equals __5__.", True),
    (SUM, "5", "15", False),
    (SUM, "5", "5.5", False),
    (SUM, "5", "0.5", False),
    (SUM, "5", "-5", False),
    (SUM, "5", "minus 5", False),
    (SUM, "5", "5.0", True),
    (SUM, "-7", "minus 7", True),
    (SUM, "-7", "It is negative 7.", True),
    (SUM, "-7", "−7", True),
    (SUM, "-7", "7", False),
    (POPULATION, "1000", "1,000 people", True),
    (POPULATION, "1000", "1 000 people", True),
    (POPULATION, "1000", "1\u00a0000 people", True),
    (POPULATION, "1000", "1\u202f000 people", True),
    (POPULATION, "1000", "1\u2009000", True),
    (POPULATION, "1000", "1 0000", False),
    (POPULATION, "1000", "one 000", False),
    (POPULATION, "1000000", "About 1 million.", True),
    (POPULATION, "1,000,000", "There are 1.000.000 people.", True),
    (POPULATION, "1000000", "1 000 000", True),
    (POPULATION, "2500000", "2.5 million people live there", True),
    (POPULATION, "1", "1 million", False),
    (POPULATION, "1", "$1 billion", False),
    (POPULATION, "1234.5", "1.234,5", True),
    (POPULATION, "1234.5", "1,234.5", True),
    (POPULATION, "1234", "1234.5", False),
    (POPULATION, "300", "3 hundred", True),
    (HALF, "0.5", "0,5", True),
    (HALF, "0.5", "Half of 1 is 0,5.", True),
    (HALF, "0.5", ".5", True),
    (HALF, "0.5", "So...5", False),
    (HALF, "5", "0,5", False),
    (HALF, "0.5", "5", False),
    (APPLES, "7", "It is $7.00", True),
    (APPLES, "7", "7 €", True),
    (APPLES, "7", "7cm", True),
    (APPLES, "7", "7%", True),
    (APPLES, "7", "The 7-year-old", True),
    (APPLES, "7", "She has 7 apples (3 + 4).", True),
    (APPLES, "7", "7 apples (3+4)", True),
    (APPLES, "7", "Anna has 3 + 4 = 7 apples", True),
    (APPLES, "7", "Anna has 3 plus 4 apples, so 7.", True),
    (APPLES, "7", "\\boxed{7}", True),
    (APPLES, "7", "The final answer is: $\\boxed{7}$. I used 3 and 4.", True),
    (APPLES, "7", "\\[ 3 + 4 = 7 \\]", True),
    (APPLES, "7", "#### 7", True),
    (APPLES, "7", "The answer is 7 because she had 3 and bought 4.", True),
    (APPLES, "7", "**Answer:** 7 (she had 3 and bought 4)", True),
    (APPLES, "7", "It is 7, not 8.", True),
    (APPLES, "7", "It is not 7.", False),
    (APPLES, "7", "Not 6 but 7!", True),
    (APPLES, "7", "3 + 4", False),
    (APPLES, "7", "She has 34 apples.", False),
    (APPLES, "7", "Anna has 3 apples and buys 4 more", False),
    (APPLES, "7", "3 + 4 = 8", False),
    (APPLES, "7", "7 + 4 = 11", False),
    (APPLES, "7", "The answer is 8, as 3 and 5 is 8, not 7", False),
    (APPLES, "7", "She has 3 apples, and then she buys 4 more, which makes 7.", True),
    (APPLES, "4", "Anna has 3 apples and buys 4 more. How many apples does she have?", False),
    (APPLES, "4", APPLES + "\n\nShe has 4.", True),
    (SWEETS, "3", "1/3", False),
    (SWEETS, "3", "\\frac{1}{3}", False),
    (SWEETS, "3", "12/4 = 3", True),
    (SWEETS, "3", "12 ÷ 4 = 3 sweets", True),
    (SWEETS, "3", "Each gets 12 / 4", False),
    (SWEETS, "4", "12 / 4", False),
    (SWEETS, "3", "the 3rd", False),
    (SWEETS, "3", "3x + 2y", False),
    (SWEETS, "12", "12h30", False),
    (SWEETS, "12", "12:30", False),
    (SWEETS, "30", "at 12:30", False),
    (SWEETS, "12", "12h", True),
    (SWEETS, "2", "The area is 12 cm^2", False),
    (SWEETS, "12", "The area is 12 cm^2", True),
    (SWEETS, "12", "The area is 12 $\\text{cm}^{2}$", True),
    (SWEETS, "3", "from 2-3", False),
    (SWEETS, "3", "", False),
    (SWEETS, "3", "I do not know.", False),
    (SWEETS, "3", "1. Divide the sweets.\n2. Each gets 3.", True),
    (SWEETS, "3", "Each gets 3:\n1. Ann\n2. Ben\n3. Cleo\n4. Dan", True),
    (SWEETS, "2", "1. Divide the sweets.\n2. Eat them.", False),
    (SWEETS, "1", "1e99999999999999999999", False),
    (SWEETS, "1", "1e400", False),
    # Numbers: echoes, loops and texts that are cut off.
    (SUM, "5", "10 − 5", False),
    (SUM, "5", "10 - 5", False),
    (SUM, "5", "10-5", False),
    (SUM, "5", "Calculate 10 - 5.", False),
    (SUM, "5", "To calculate 10 minus 5, we take 10 - 5", False),
    (SUM, "5", "10 - 5 = 5", True),
    (SUM, "5", "10 - 5 = 5. 10 - 5 = 5. 10 -", True),
    (SUM, "5", "10 - 5 = 4. 10 - 5", False),
    (SUM, "5", "10 - 5 = 4\n\nThis is a simple way to calculate 10 - 5, which is 4.", False),
    (SUM, "5", "10 - 5 is not 4 but 5", True),
    (PRODUCT, "42", "6 × 7 = 42. 6 × 7 =", True),
    (PRODUCT, "42", "6 × 7 = 42. 6 × 8 = 48. 6 × 9 = 54. 6 ×", True),
    (PRODUCT, "42", "**6** × **7** = **42**", True),
    (PRODUCT, "42", "$6 \\times 7 = 42$", True),
    (PRODUCT, "42", "6 * 7 = 42", True),
    (PRODUCT, "42", "6 times 7 equals 42, and it is a multiple of 6 and of 7.", True),
    (PRODUCT, "42", "6 × 7 = 42\n\nThis involves multiplying a number by itself and then adding 1.", True),
    (PRODUCT, "42", "6 × 7 = 36, and 42 is something else. 6 × 7 = 36", False),
    (PRODUCT, "42", "6 + 7 = 42", True),
    (PRODUCT, "42", "42 × 42", False),
    (PRODUCT, "42", "6 × 7 = 4", False),
    (PRODUCT, "7", "6 × 7", False),
    (PRODUCT, "7", "6 ×\n\n6 × 7 =", False),
    # Letters.
    (FRUIT, "B", "B", True),
    (FRUIT, "B", "(B)", True),
    (FRUIT, "B", "**B**", True),
    (FRUIT, "B", "The answer is: **B) Apple**", True),
    (FRUIT, "B", "The answer is 'B'.", True),
    (FRUIT, "B", "$\\boxed{B}$", True),
    (FRUIT, "B", "The correct answer is \\boxed{\\text{B}}", True),
    (FRUIT, "B", "The correct choice is (B) Apple.", True),
    (FRUIT, "B", "It's B!", True),
    (FRUIT, "B", "Option B", True),
    (FRUIT, "B", "B because A is a vegetable", True),
    (FRUIT, "B", "B. The others, A, C and D, are vegetables.", True),
    (FRUIT, "B", "B) Apple, not A", True),
    (FRUIT, "B", "The answer is not A. It is B", True),
    (FRUIT, "A", "The answer is not A. It is B", False),
    (FRUIT, "A", "The answer is not A.", False),
    (FRUIT, "A", "A is wrong", False),
    (FRUIT, "A", "A) is wrong.", False),
    (FRUIT, "A", "A isn't a fruit", False),
    (FRUIT, "A", "It is not option A", False),
    (FRUIT, "A", "Neither A nor B", False),
    (FRUIT, "B", "A is wrong, so it must be B.", True),
    (FRUIT, "B", "A Carrot is a vegetable, B is a fruit", True),
    (FRUIT, "A", "A Carrot is a vegetable, B is a fruit", False),
    (FRUIT, "A", "(A) Carrot, (B) Apple, (C) Potato or (D) Onion?", False),
    (FRUIT, "A", "A) Carrot, B) Apple, C) Potato, D) Onion", False),
    (FRUIT, "A", "A. Carrot\nB. Apple\nC. Potato\nD. Onion", False),
    (FRUIT, "B", "A) Carrot, B) Apple, C) Potato, D) Onion\n\nAnswer: B", True),
    (FRUIT, "A", FRUIT, False),
    (FRUIT, "B", FRUIT + "\n\nThe answer is B.", True),
    (FRUIT, "B", "The fruit is the apple.", True),
    (FRUIT, "B", "APPLE", True),
    (FRUIT, "B", "Apple or onion", False),
    (FRUIT, "B", "It is not an apple.", False),
    (FRUIT, "B", "A good example is the apple", True),
    (FRUIT, "B", "A: Apple", True),
    (FRUIT, "A", "A: Apple", False),
    (FRUIT, "A", "A: Carrot", True),
    (FRUIT, "B", "A: (B) Apple", True),
    (FRUIT, "A", "A: (D) Onion", False),
    (FRUIT, "C", "The answer is (C) Apple.", False),
    (FRUIT, "C", "C) Potato, D) Onion", False),
    (FRUIT, "B", "Both A and B", False),
    (FRUIT, "B", "A fruit is a vegetable.", False),
    (FRUIT, "C", "The answer is B. The answer is C. The answer is B.", False),
    (FRUIT, "B", "The answer is B. The answer is C. The answer is B.", True),
    (FRUIT, "B", "Because", False),
    (FRUIT, "B", "E", False),
    (COLOUR, "A", "A CHAIR", False),
    (COLOUR, "A", "A Chair", False),
    (COLOUR, "A", "A colour is a color.", False),
    (COLOUR, "A", "A\n\nBlue is a colour.", True),
    (COLOUR, "A", "A because blue is a colour", True),
    (COLOUR, "A", "A) Blue", True),
    (COLOUR, "A", "blue/bread", False),
    (WATER, "A", "0°C", True),
    (WATER, "A", "Water freezes at 0 °C.", True),
    (WATER, "A", "A: 1\n\nThe correct answer is: 1", False),
    (WATER, "C", "At 100 °C", True),
    (EVEN, "D", "8", True),
    (EVEN, "D", "The even number is 8.", True),
    (EVEN, "D", "3 and 8", False),
    # Words.
    (CAPITAL, "Rome", "Rome", True),
    (CAPITAL, "Rome", "The capital of Italy is **Rome**.", True),
    (CAPITAL, "Rome", "rome", True),
    (CAPITAL, "Rome", "Rome's the capital", True),
    (CAPITAL, "Rome", "Rome/Italy", True),
    (CAPITAL, "Rome", "Romeo", False),
    (CAPITAL, "Rome", "not Rome", False),
    (CAPITAL, "Rome", "It is not in Rome.", False),
    (CAPITAL, "Rome", "It isn't Rome", False),
    (CAPITAL, "Rome", "Rome is not the capital of Italy.", False),
    (CAPITAL, "Rome", "Rome is wrong", False),
    (CAPITAL, "Rome", "Not Milan but Rome.", True),
    (CAPITAL, "Rome", "I am not sure. Rome?", True),
    (CAPITAL, "Rome", "It is not Milan. Rome is.", True),
    (CAPITAL, "Rome", "Rome is not only old, it is the capital", True),
    (CAPITAL, "Rome", "The capital of Italy is the capital of Italy is the capital of", False),
    (CAPITAL, "Rome", "Rome Rome Rome Rome Rome", True),
    ("Is the capital of Italy Rome or Milan?", "Rome", "Is the capital of Italy Rome or Milan?", False),
    ("Is the capital of Italy Rome or Milan?", "Rome", "Is the capital of Italy Rome or Milan?\nRome.", True),
    ("Ann is tall.\nIs Ann tall or short?", "tall", "Is Ann tall or short?", False),
    ("Ann is tall.\nIs Ann tall or short?", "tall", "Ann is tall.", True),
    (NOVEL, "Jane Austen", "It is Jane Austen's.", True),
    (NOVEL, "Jane Austen", "Jane Austen’s best-known novel", True),
    (NOVEL, "Jane Austen", "Jane  *Austen*", True),
    (NOVEL, "Jane Austen", "Austen", False),
    (NOVEL, "Jane Austen", "Jane Eyre, not Austen", False),
    (NOVEL, "Jane Austen", "Charlotte Brontë", False),
    (PHONE, "555-0142", "555-0142", True),
    (PHONE, "555-0142", "It is 555–0142.", True),
    (PHONE, "555-0142", "555‑0142", True),
    (PHONE, "555-0142", "555 0142", True),
    (PHONE, "555-0142", "555-01425", False),
    (PHONE, "555-0142", "1555-0142", False),
    ("How much is left?", "1/3", "1/3 is left", True),
    ("How much is left?", "1/3", "3", False),
    ("When?", "12h30", "At 12h30.", True),
    ("When?", "12h30", "At 12h", False),
    (VITAMIN, "A", "Vitamin A", True),
    (VITAMIN, "A", "They have a vitamin", False),
    (VITAMIN, "A", "A vitamin", False),
    (VITAMIN, "A", "Vitamin C", False),
    (APPLES, "7", "The answer is seven (7).", True),
    (APPLES, "7", "$3 + $4 = $7", True),
    (APPLES, "7", "3 apples + 4 apples = 7 apples", True),
    (APPLES, "7", "The answer to 3 + 4 is 7", True),
    (APPLES, "7", "the answer is (3 + 4) = 7.", True),
    (APPLES, "7", "Step by step: Anna has 3 apples. She buys 4 more. 3 + 4 = 7. So Anna has 7 apples.", True),
    (APPLES, "7", "Let's think step by step. Anna has 3 apples. She buys 4", False),
    (APPLES, "7", "```\n7\n```", True),
    (APPLES, "7", "x = 7", True),
    (APPLES, "7", "~7", True),
    (APPLES, "7", "7 USD", True),
    (APPLES, "7", "07", True),
    (APPLES, "7", "7/7", False),
    (APPLES, "7", "7,7", False),
    (APPLES, "7", "77777777777777777777777777777777", False),
    (APPLES, "7", "7. 7. 7. 7. 7. 7.", True),
    (APPLES, "7", "7\n7\n7\n7\n", True),
    (APPLES, "7", "7\n8\n9\n10", False),
    (APPLES, "7", "Answer: 7\n\nExplanation: 3 and 4 make it.", True),
    (APPLES, "7", "| 7 |", True),
    (APPLES, "7", "7!", True),
    (APPLES, "7", "<b>7</b>", True),
    (APPLES, "7", "ANSWER = 7", True),
    (APPLES, "7", "The total is $\\frac{14}{2} = 7$.", True),
    (APPLES, "7", "The sum of 3 and 4 is 7", True),
    (APPLES, "7", "She had 3; now she's got 7 of them!", True),
    (POPULATION, "1000", "1.000,00", True),
    (POPULATION, "1000", "1,000.00", True),
    (POPULATION, "1000", "10 00", False),
    (POPULATION, "1000", "1,000,000", False),
    (POPULATION, "860", "The village lies at 1,240 metres and has 860 inhabitants", True),
    (POPULATION, "860", "The village lies at 1,240 metres", False),
    (POPULATION, "20", "In 2020 there were 20", True),
    (POPULATION, "2020", "2020-07-04", False),
    (POPULATION, "25", "25 %", True),
    (POPULATION, "25", "0.25", False),
    (FRUIT, "B", "The correct answer is option B.", True),
    (FRUIT, "B", "I would choose B", True),
    (FRUIT, "B", "b) Apple", True),
    (FRUIT, "B", "B or C", False),
    (FRUIT, "A", "Answer: A Carrot", True),
    (FRUIT, "A", "The correct answer is A) Carrot. A carrot is a fruit", True),
    (FRUIT, "B", "Correct answer: B, since A grows underground", True),
    (FRUIT, "B", "(A) is a vegetable, so the answer is (B).", True),
    (FRUIT, "B", "The answer isn't B", False),
    (FRUIT, "B", "It can't be B", False),
    (FRUIT, "B", "None of the above", False),
    (FRUIT, "B", "All of them: A, B, C and D", False),
    (FRUIT, "B", "The answer is B, not C", True),
    (FRUIT, "B", "B - Apple", True),
    (FRUIT, "B", "B/Apple", True),
    (FRUIT, "B", "B: Apple\nB: Apple\nB: Apple\nB:", True),
    (FRUIT, "B", "Apple (B)", True),
    (FRUIT, "C", "Apple (B)", False),
    (FRUIT, "B", "Apples are fruits, so (B) is correct.", True),
    (FRUIT, "D", "ABCD", False),
    (FRUIT, "B", "Apple. Carrots, potatoes and onions are vegetables.", True),
    (FRUIT, "B", "Carrots are vegetables. Apple is a fruit", True),
    (FRUIT, "B", "The answer is B) Apple. A carrot is a vegetable. C is a potato. D) Onion", True),
    (FRUIT, "A", "I am a helpful assistant.", False),
    (FRUIT, "B", "Q: Which of these is a fruit?\nA: B", True),
    (FRUIT, "B", "B)\n", True),
    (FRUIT, "B", "Answer: B) Apple\nAnswer: B) Apple\nAnswer", True),
    (CAPITAL, "Rome", "$\\boxed{\\text{Rome}}$", True),
    (CAPITAL, "Rome", "Rome, Italy", True),
    (CAPITAL, "Rome", "Rome(Italy)", True),
    (CAPITAL, "Rome", "Rome—the Eternal City", True),
    (CAPITAL, "Rome", "ROME!!!", True),
    (CAPITAL, "Rome", "{\"capital\": \"Rome\"}", True),
    (CAPITAL, "Rome", "It can't be Rome", False),
    (CAPITAL, "Rome", "The capital was never Rome.", False),
    (CAPITAL, "Rome", "Roman", False),
    (CAPITAL, "Rome", "The capital of Italy isn't Milan, it's Rome", True),
    (CAPITAL, "Rome", "Italy", False),
    (CAPITAL, "Rome", "R-o-m-e", False),
    (CAPITAL, "Rome", "1. Rome\n2. Rome\n3. Rome\n4.", True),
    (CAPITAL, "Rome", "Why not Rome?", False),
    ("What is made of milk?", "cheese", "cheesecake", False),
    ("What is made of milk?", "cheese", "Cheese, butter", True),
    ("Who built it?", "Ida Carlsen", "The engineer, Ida\nCarlsen, built it", True),
    ("Who built it?", "Ida Carlsen", "Carlsen, Ida", False),
    ("Who built it?", "Ida Carlsen", "Ida  and Mr. Carlsen", False),
    (SUM, "5", "5 - that's all. 10 - 5", True),
    (FRUIT, "B", "B is a fruit and A is a vegetable, as is C.", True),
    # Texts of the default model, some cut off at 64 tokens.
    (PRODUCT, "42", "6 × 7 = 42. This is an operation that is often used for multiples of 1", True),
    (FRUIT, "B", "A: (C) Onion, (D) Carrot", False),
    (FRUIT, "C", "A: Carrot, (B) Apple, (C) Potato\n\nThe answer is: D) Onion", False),
    (FRUIT, "C", "A: Carrot\nB: Apple\nC: Potato\nD: Onion\n\nA: Carrot\nB: Apple\n", False),
    (FRUIT, "C", "The answer is (B) Potato.", False),
    (FRUIT, "B", "Apples are a type of fruit. The answer is (D) Onion", False),
    (FRUIT, "B", "The correct answer is (B) Apple or (D) Onion. Carrot is a vegetable.", False),
    (FRUIT, "B", "The correct answer is: (B) Apple\n\nThe reasons are in (C) and (D)", True),
    # What the rules once got wrong.
    (SWEETS, "3", "Each of them gets three.", True),
    (APPLES, "7", "7 apples, of which 4 are new", True),
    (PRODUCT, "42", "42 = 6 × 7, 7", True),
    (FRUIT, "B", "A) is a vegetable, B) is a fruit", True),
    (APPLES, "7", "Answer: 7\n\nQuestion: And with 5 more?\nAnswer: 12", True),
    (APPLES, "7", "The answer is not in doubt: 7, as 3 and 4", True),
    (FRUIT, "B", "Apples", True),
    (FRUIT, "B", "A, C and D are vegetables, and that leaves B", True),
    (CAPITAL, "Rome", "#Rome", True),
    (FRUIT, "A", "A) Carrot, Apple, Potato, or Onion.", False),
    ("Which month comes after March?", "April", "Between March and April is October, not April.", False),
    (CAPITAL, "Rome", "Rome or Milan or Naples", False),
    (CAPITAL, "Rome", "Milan. I once thought that it was Rome.", False),
    (CAPITAL, "Rome", "Rome, but it's actually Milan", False),
    (CAPITAL, "Rome", "Is it Rome?", False),
]  # fmt: skip


# What the rules get wrong: question, answer, text, what a careful reader says, what the grader says instead.
BLUNT: list[tuple[str, str, str, bool, bool]] = [
    # Wrongly wrong.
    (APPLES, "7", "3 + 4 = 7\n\n3", True, False),  # cut off at the start of a repetition
    (POPULATION, "1000", "1.000", True, False),  # a decimal point, even if thousands may be meant
    (POPULATION, "100000", "1,00,000", True, False),  # groups of two digits
    (APPLES, "7", "She has 7:\n- 3 from before\n- 4 new ones", True, False),
    (FRUIT, "B", "b", True, False),  # letters are capital letters
    (WATER, "A", "At 0 degrees Celsius", True, False),
    (CAPITAL, "Rome", "Roma", True, False),
    (POPULATION, "860", "Felda has 860 inhabitants.\n\nA village can have up to 1020 inhabitants.", True, False),
    # Wrongly right.
    (COLOUR, "A", "A chair is blue", False, True),  # the last choice that is named
    (PHONE, "555-0142", "The telephone number at 555-0142 is 123-456-7890.", False, True),
    (POPULATION, "5", "5k", False, True),  # units are not read
    (SWEETS, "3", "3D", False, True),
]  # fmt: skip


def marked(text: str, answer: str | None = None, pattern: str | None = None, prompt: str = "?") -> Mark:
    return mark(Prompt("0", prompt, answer=answer, answer_pattern=pattern), text)


@pytest.mark.parametrize(
    ("answer", "text", "found", "correct"),
    [
        ("8", "5 + 3 = 8.", "8", True),
        ("8", "5 + 3 is eight", None, False),
        ("8", "I do not know", None, False),
        ("1000", "That is 1,000.", "1,000", True),
        ("1,000.0", "That is 1000", "1000", True),
        ("5", "It costs $5.00, please", "$5.00", True),
        ("$5", "5 dollars", "5", True),
        ("50%", "It is **50%**.", "50%", True),
        ("-7", "10 - 17 = -7", "-7", True),
        ("7", "from 3-7", None, False),
        ("-7", "the answer is −$7", "−$7", True),
        ("0.5", "so .5", ".5", True),
        ("0.5", "so 1.5", "1.5", False),
        ("2.3", "1, 2,3", "2,3", True),
        ("2", "H2O and x2", None, False),
        ("2000", "about 2e3", "2e3", True),
        ("1e3", "1000", "1000", True),
        ("12", "1,2345", "1,2345", False),
    ],
)
def test_of_a_number_the_last_number_counts(answer: str, text: str, found: str | None, correct: bool) -> None:
    assert marked(text, answer) == Mark(found, correct)


def test_a_number_is_itself_however_it_is_written() -> None:
    draw = random.Random(0)
    for _ in range(300):
        number = draw.randrange(10 ** draw.randrange(1, 12)) - draw.choice([0, 500])
        for written in (f"{number}", f"{number:,}", f"{number:,}.00", f"{number}.", f"{number}%"):
            assert marked(f"First 3, then {written}", str(number)).correct, written
            assert is_same(written, f"{number:,}")
            assert not is_same(written, str(number + 1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(B) Paris", "B"),
        ("B) Paris, not A", "B"),
        ("The answer is B.", "B"),
        ("A is wrong, C is wrong: the correct answer is (D).", "D"),
        ("Answer: **C**", "C"),
        ("The right answer is option B because", "B"),
        ("It is Paris.", "B"),
        ("A good answer is the city of paris", "B"),
        ("A is correct", "A"),
        ("Is it Rome or Paris?", None),
        ("NEW YORK", "D"),
        ("E", None),
        ("Because", None),
        ("At 20 °C", None),
        ("", None),
    ],
)
def test_of_choices_the_letter_counts_or_the_only_choice_named(text: str, found: str | None) -> None:
    for answer in "ABCD":
        assert marked(text, answer, prompt=CHOICES) == Mark(found, found == answer)
    assert marked(text, "(b)", prompt=CHOICES).correct == (found == "B")


def test_choices_are_found_in_lines_and_in_one_line() -> None:
    assert choices_of(CHOICES) == {"A": "Rome", "B": "Paris", "C": "Berlin", "D": "New York"}
    assert choices_of("Is it (A) warm, (B) cold or (C) wet?") == {"A": "warm", "B": "cold", "C": "wet"}
    assert choices_of("A. Smith asks: what is B?") == {}


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Paris", "The capital is **Paris**!", "Paris"),
        ("the Nile", "It's the river Nile.", "the Nile"),
        ("Nile", "Senile", None),
        ("New York", "in new-york city", "New York"),
        ("well-known", "a “well known” man", "well-known"),
        ("New York", "York is new", None),
        ("C++", "C", None),
        ("C++", "I like C++.", "C++"),
        ("don't", "They don’t.", "don't"),
        ("3 apples", "There are 3 Apples.", "3 apples"),
        ("A", "B", "B"),
    ],
)
def test_of_other_answers_the_words_have_to_be_in_the_text(answer: str, text: str, found: str | None) -> None:
    assert marked(text, answer) == Mark(found, found == answer)


@pytest.mark.parametrize(
    ("answer", "pattern", "text", "expected"),
    [
        ("42", r"#### (\S+)", "first 7 #### 42.0 and then 8", Mark("42.0", True)),
        ("42", r"#### (\S+)", "42", Mark(None, False)),
        ("42", r"\d+", "1 or 42", Mark("1", False)),  # the first match
        ("b", r"(?i)answer: (?:(yes)|([a-d]))", "Answer: B", Mark("B", True)),  # the group that matched
        ("Paris", r"is (.*)", "It is the Paris.", Mark("the Paris.", True)),
        ("Paris", r"is (.*)", "It is Paris, France", Mark("Paris, France", False)),  # not only among others
        (None, r"^\w+ \w+ \w+$", "one two three", Mark("one two three", True)),
        (None, r"^\w+ \w+ \w+$", "one two", Mark(None, False)),
        (None, None, "anything", Mark(None, None)),
    ],
)
def test_a_pattern_says_what_the_answer_is(answer: str | None, pattern: str | None, text: str, expected: Mark) -> None:
    assert marked(text, answer, pattern) == expected


@pytest.mark.parametrize(("prompt", "answer", "text", "right"), TEXTS)
def test_texts_are_marked_as_a_careful_reader_would(prompt: str, answer: str, text: str, right: bool) -> None:
    assert marked(text, answer, prompt=prompt).correct == right


def test_as_many_texts_are_right_as_are_wrong_of_every_kind() -> None:
    n_right = sum(right for *_, right in TEXTS)
    assert 0.4 < n_right / len(TEXTS) < 0.6
    assert len(set(TEXTS)) == len(TEXTS) >= 150


@pytest.mark.parametrize(("prompt", "answer", "text", "right", "marked_right"), BLUNT)
def test_what_the_rules_get_wrong_is_known(
    prompt: str, answer: str, text: str, right: bool, marked_right: bool
) -> None:
    assert right != marked_right
    assert marked(text, answer, prompt=prompt).correct == marked_right


@pytest.mark.parametrize("tail", ["", "x"])
@pytest.mark.parametrize(
    "unit",
    [
        *("1,", "1,000", "1 000 ", "1 + ", "1/", "1.000", "1e", "a1", "9", "6 × 7 ", "6 × 7 =", "minus ", "not "),
        *("\n1. ", "A ", "A) ", "A: ", "A\n", "B or ", "answer is ", "it is ", "'A'", "option A "),
        "(A) Carrot, (B) Apple, ",
        *(" ", "\n", "*", "* ", "_a", "\\frac{", "\\boxed{", "####", "$", "Rome is ", "not Rome ", "Jane ", "’", "…"),
    ],
)  # fmt: skip
def test_a_text_of_100_000_characters_is_marked_in_less_than_a_second(unit: str, tail: str) -> None:
    text = unit * (100_000 // len(unit)) + tail
    for prompt, answer in ((PRODUCT, "42"), (FRUIT, "B"), (NOVEL, "Jane Austen"), (VITAMIN, "A")):
        started = time.process_time()  # of this process alone, whatever else the machine does
        marked(text, answer, prompt=prompt)
        assert time.process_time() - started < 1


def test_a_number_too_large_for_any_exponent_is_no_number() -> None:
    assert not is_same("1e99999999999999999999", "1")
    assert marked("1e99999999999999999999", "1e99999999999999999999").correct  # as a word


def test_runs_are_marked_in_columns_figures_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_byte_model(tmp_path / "model")
    monkeypatch.setattr(answers, "PATTERN_SECONDS", 0.05)
    prompts = (
        Prompt("right", "one", answer_pattern="(?s).+"),
        Prompt("wrong", "two", answer="no such words"),
        Prompt("open", "three"),
        Prompt("slow", "four", answer_pattern=r"(?s)(?:.|..)+$(?!)"),
    )
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=prompts, kl_factors=(1,), exit_every=2, max_new_tokens=40
    )
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    results = ModelGenerator(config, "cpu").generate(runs)
    before = time.process_time()
    with pytest.raises(SlowPatternError):
        mark(prompts[-1], "a" * 60)
    assert 0.05 <= time.process_time() - before < 5, "a limit of CPU time, which other processes do not shorten"
    rows = {row["prompt_id"]: row for row in results.generations.to_pylist()}
    assert (rows["right"]["found_answer"], rows["right"]["correct"]) == (rows["right"]["text"].strip(), True)
    assert (rows["wrong"]["answer"], rows["wrong"]["correct"]) == ("no such words", False)
    assert [rows["open"][name] for name in ("answer", "found_answer", "correct")] == [None] * 3
    assert (rows["slow"]["status"], rows["slow"]["correct"]) == ("error", None)
    assert rows["slow"]["error"].endswith("takes more than 0.05 s of CPU time on this run's text: make it simpler")
    land(store, runs, results)
    assert [row["means"]["correct"] for row in figures(store, configurations(config))] == [0.5] * 3
    console = Console(width=80, record=True)
    long = Exit("frozen_residual", "random", Control("frozen_residual/similarity/0.985", ()))
    console.print(closing_table(store, [*configurations(config), long]))  # keys may be broken, but no number
    lines = console.export_text().splitlines()
    assert [line.split()[-1] for line in lines if line.startswith((" normal", " unfrozen"))] == ["50.0%"] * 2
    assert max(map(len, lines)) <= 80
