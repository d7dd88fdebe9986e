"""What was found, as templates: each is one sentence of at most 30 words with named numbers.

The page and the terminal fill them in. Which sentences are said depends on what was found; none is put together from
parts. All numbers stand in the table beside it, most of them with further ones.
"""

from typing import Final

# Of a sweep, each pair of mode and rule at its representative parameter.
SKIPS_AND_DIFFERS: Final = (
    "{setting} would skip {skipped} of the layers, and differs from full depth on {differs} of decided tokens "
    "(n = {n})."
)
SKIPS: Final = "{setting} would skip {skipped} of the layers (n = {n})."
DIFFERS: Final = "{setting} differs from full depth on {differs} of decided tokens (n = {n})."
EXITS: Final = "{setting} exits early on {exits} of tokens (n = {n})."
CONTROL_DIFFERS: Final = "Its control, with random exits at the same depths, differs on {differs}."
IS_A_LOOP: Final = "But {loop} of its text is one loop, which full depth agrees with once it is there."
SKIPS_MOST: Final = "{setting} would skip most of the layers, {skipped}, and differs on {differs}."
SAMPLED: Final = "Tokens are sampled, but compared with full depth's most likely token, so that normal disagrees too."
UNOBSERVED: Final = "Disagreement and perplexity are not known: full depth was asked nothing (--observe none)."
UNOBSERVED_LAYERS: Final = (
    "KLs of exitable layers are not known: full depth was read at its final layer alone (--observe final)."
)

# What was saved, where `where` says whether it is time or multiply-adds.
SAVES_MOST: Final = "{where}: {setting} {saved} than full depth, the most within {limit} disagreement (n = {n})."
SAVES: Final = "{where}: {setting} {saved} than full depth (n = {n})."
NONE_SAVES: Final = "{where}: no configuration certainly saves."
ONLY_LOOPS_SAVE: Final = "{where}: no configuration that writes more than loops certainly saves."
CHEAPEST: Final = "The cheapest, {setting}, {saved} than full depth (n = {n})."
HAS_DISAGREEMENT: Final = "It disagrees on {differs} of decided tokens."
NOTHING_KNOWN: Final = "{where}: no configuration that exits early was measured."
ONLY_LOOPS: Final = "{where}: no configuration writes more than loops."
LOOPS_SAVE: Final = "{setting} {saved}, the most of {configurations} with savings whose text is mostly one loop."
GENERATE_SAVES: Final = "{where}: the generate of transformers {saved} than full depth on the same path."
FEW_ROUNDS: Final = "Fewer than {least} rounds are too few for intervals."
NONE_EXITS: Final = "No configuration of this sweep exits early, apart from controls."
ALL_ORACLES: Final = "No configuration saves time: all rules of this sweep are oracles, which need the full-depth pass."
UNTIMED: Final = "Realised savings were not measured: python jobs/timings.py RESULTS does that."

# Of quality.
ANSWERS: Final = "Answers: normal gets {share} right (n = {n})."
KEEPS_NONE: Final = (
    "Of the {settings} tried that a deployed model can follow, none is shown to be at most {margin} worse."
)
KEEPS_SOME: Final = (
    "At most {margin} worse, by the interval's end: {kept} of the {settings} tried that a deployed model can follow."
)
CHEAPEST_KEPT: Final = "Of these, {setting} costs least: it {saved}, at {difference}."
KEPT_COST_MORE: Final = "None of these costs less than full depth."
PAIRS: Final = "It alone is right on {gained}, and normal alone on {lost} (McNemar: p = {p})."
CONTROL_KEEPS: Final = "Its control, with random exits at the same depths, is at {difference}."
WINS: Final = "Its win rate over normal is {share}."
BELOW: Final = "{mode}: at every setting of {rules}, {name} is certainly below that of normal."
FEW_PROMPTS: Final = "Fewer than {least} prompts are too few to say which settings are below normal in {name}."
NO_NORMAL: Final = "{name}: there are no runs of normal to compare with."
JUDGED: Final = "Judge {judge} gives normal a score of {score} of {best} (n = {n})."
UNUSABLE: Final = "Judge {judge} gave no usable answer for {errors} of {runs}, which are in no mean of its scores."
FAILED: Final = "{runs} failed, and count in no mean."

# Whether early exit pays, where no assessment says so.
NEAREST_SETTING: Final = "The nearest, {setting}, is at {difference} and {saved}."
AT_LITTLE_DISAGREEMENT: Final = "{setting} {saved}, and differs from full depth on {differs} of decided tokens."
SAVES_SOMETHING: Final = "{setting} {saved}, the most of all settings."
NO_SETTING_SAVES: Final = "No setting certainly saves; the cheapest, {setting}, {saved}."
CERTIFIED_FOR: Final = (
    "With {confidence} confidence, {bound} is at most {at_most} under {setting}, at {cost} of full depth's cost."
)
UNCERTIFIED: Final = "Nothing is certified: python jobs/choose.py RESULTS does that."
HOW_CERTIFIED: Final = (
    "Each bound was asked by itself; the cheapest certified setting that costs less than full depth, and its loss on "
    "prompts that chose nothing."
)
HOW_KEPT: Final = (
    "Nothing is certified; from the best on, by the interval's end: whether a setting is at most {margin} worse than "
    "full depth, paired over prompts."
)
HOW_TIMED: Final = (
    "Realised: time beside full depth on the same path ({rounds}); allowed: what steps of fewer rows and layers would "
    "save if deciding were free."
)
NO_STEP_TIMES: Final = "What a step allows was not measured: python jobs/timings.py RESULTS --steps does that."

# Of a choice: what counts, and how it was tested.
LOSS: Final = "Loss of a prompt: {definition}."
AVERAGED: Final = "It is averaged over {seeds} first."
COUNTED: Final = "Prompts are what is counted, never tokens, and those of the same text are one."
SAME_RUNS: Final = "Of {settings}, all seeds have the same run, which counts once: nothing is left to chance."
JUDGED_BY: Final = "Judged by {judges}."
JUDGES_AVERAGED: Final = "The losses that they give a text are averaged."
NORMAL_ANSWERS: Final = "normal answers {share} of them correctly."
MOST_TO_LOSE: Final = "No more than that can be lost."
GROUPED: Final = "{prompts} belong to {groups}, each of which counts once."
GROUPS_OF_ONE: Final = "No group has two prompts, so that groups change nothing."
PILOT: Final = (
    "The order comes from {n} of a pilot, which choose nothing: {settings} that none beats in both loss and cost."
)
NORMAL_LOSES: Final = "normal itself has a mean loss of {mean}, since this sweep samples its tokens."
FAILED_IS_LOST: Final = "{runs} failed: each is a loss of 1, since no prompt may be left out."
FAILED_NORMAL: Final = "{n} of these are of normal: settings are compared with the best that it could have said."
UNJUDGED: Final = "{texts} got no usable judgement, and have the worst score, or the best as texts of normal."
ASK_AGAIN: Final = "jobs/judge.py asks for them again."
SHARED_ERROR: Final = "{families} families of settings share the error of {error}: {each} for each (Bonferroni)."
PASSED_ON: Final = "A family that is through passes its part on to the others."
STOPPED: Final = "{family} stopped at {setting}: its mean loss is {mean} over {n}."
STOPPED_WITHOUT: Final = "{family} stopped at {setting}: no prompt for choosing has a loss there."
WOULD_DO: Final = (
    "If it stays so, {enough} prompts for choosing would do with a chance of 80%, which is a sweep of about {in_all}."
)
NONE_WOULD_DO: Final = "If it stays so, no number of prompts that can be asked for would do."

# What was chosen, and how that does on prompts that chose nothing.
CHOSEN: Final = "Certified: {setting}, the cheapest that is, at {cost} of full depth: {definition}."
GUARANTEE: Final = "With {confidence} confidence, over prompts like these, {bound} is at most {at_most}."
TESTED: Final = "n = {n}, mean {mean}, p = {p}."
NONE_SAVES_ANYTHING: Final = "Certified: {settings}, but none costs less than full depth."
IS_AN_ORACLE: Final = "It is an oracle, which looks at the final layer: at run time it saves nothing."
REALISED: Final = "Realised: {times} times as fast as normal with {rows} at a time (jobs/timings.py)."
UNREALISED: Final = "How long it really takes was not measured: python jobs/timings.py RESULTS does that."
NONE_CERTIFIED: Final = "No setting is certified with {confidence} confidence that {bound} is at most {at_most}."
DEFENSIBLE: Final = "normal is what can be defended."
WITHOUT_LOSS: Final = "A setting without any loss would be certified with {n}."
NEAREST: Final = "The nearest, {setting}, has a mean of {mean} (n = {n}, p = {p})."
HELD_OUT: Final = "On {n} for reporting, which had no part in the choice, its mean is {mean}."
HELD_OUT_RISK: Final = "By these alone, the risk is at most {upper} with the same confidence."
ABOVE_THE_BOUND: Final = "That mean is above the bound."
CONFIRMED: Final = "They confirm the bound."
TOO_FEW_TO_CONFIRM: Final = "It is within the bound, but they are too few to confirm it by themselves."
UNCHECKED: Final = "No prompt for reporting has a loss, so that nothing checks it."
NAIVE: Final = "The naive choice, the cheapest whose mean is within the bound, is {setting}: mean {mean}, cost {cost}."
NO_GUARANTEE: Final = "It has no guarantee."
NAIVE_IS_THE_SAME: Final = "The naive choice, the cheapest whose mean is within the bound, is the same."
NAIVE_IS_NONE: Final = (
    "There is no naive choice either: no setting that costs less than full depth has a mean within the bound."
)
QUESTIONS: Final = "{questions} were asked of jobs/choose.py: each guarantee holds for its own question."
BEST_OF_SEVERAL: Final = "None holds for the best of several answers."
LATEST_ARE_TOLD: Final = "The latest {n} of them are told."

# Of drafts. Plain decoding is `normal` and the `generate` of transformers: a draft has to beat both.
BEATS: Final = "At {where}, a draft certainly beats plain decoding."
BEATS_IN_FEW_ROUNDS: Final = "At {where}, a draft beats plain decoding, but in too few rounds to be certain."
MAY_BEAT: Final = "At {where}, no draft certainly beats plain decoding."
BEATS_NOT: Final = "At {where}, no draft beats plain decoding."
FASTEST_DRAFT: Final = "{pair}, the fastest of {drafts}, is {times} as fast as normal (n = {n})."
OVER_GENERATE: Final = "It is {times} as fast as the generate of transformers."
GENERATE_UNTIMED: Final = "The generate of transformers was not timed beside it."
GENERATE_DRAFTS: Final = (
    "The generate of transformers that drafts itself, after layer {layer}, is {times} as fast as normal "
    "(assistant_early_exit)."
)
WOULD_BEAT: Final = "Expected, not measured: a draft would be faster than normal."
MAY_BE_FASTER: Final = "Expected, not measured: no draft is certain to be faster than normal."
WOULD_NOT_BEAT: Final = "Expected, not measured: no draft would be faster than normal."
EXPECTED: Final = "The fastest, {pair}, would be {times} as fast (n = {n})."
IF_FREE: Final = "That is if a call of a layer or of the head takes as long for several tokens as for one."
DRAFTS_UNTIMED: Final = "How fast drafts really are was not measured: python jobs/timings.py RESULTS does that."
ACCEPTED: Final = "Full depth agreed with {share} of the tokens that {pair} drafted (n = {n})."
OTHER_TEXTS: Final = "In {n} of {runs} a draft's text is not that of normal."
NEAR_TIES: Final = "Rounding decides near ties of two tokens, above all in 16 bits."
SAME_TEXTS: Final = "Every draft's text is that of normal, token for token ({runs})."
SAMPLED_DRAFTS: Final = "Tokens are sampled: a draft's text differs from that of normal, but has the same distribution."

# Of learned exits, from the held-out numbers of their cards.
READS: Final = (
    "At layer {layer}, {readout} names the final layer's token for {share} of held-out tokens, {base} for {base_share} "
    "(n = {n})."
)
HELPS: Final = "It helps at every layer, in agreement and median KL."
AGREES_MORE: Final = "It helps at every layer, in agreement."
AGREES_NO_MORE: Final = "It does not help everywhere: agreement is no higher {layers}."
KL_NO_LOWER: Final = "It does not help everywhere: the median KL is no lower {layers}."
AT_EQUAL_DEPTH: Final = (
    "Where {skipped} of the layers are skipped, {readout} would agree with the final layer on {share} of held-out "
    "tokens, {base} on {base_share} (teacher-forced, interpolated)."
)
HELPS_NOT_AT: Final = "It does not help where {shares} are skipped."
NO_EQUAL_DEPTH: Final = "{readout} and {base} skip no like share of layers, and can't be compared at equal depth."
RULE_AGREES: Final = (
    "At KL factor {k}, {rule} would skip {skipped} of the layers and agree with the final layer on {share} of held-out "
    "tokens (teacher-forced)."
)
NO_BETTER: Final = "{series} does not help at KL factor {factors}: random exits at the same depths agree as often."
RANKS: Final = "The probe's rank correlation with the true KL is {low} (layer {at_low}) to {high} (layer {at_high})."
RANK: Final = "The probe's rank correlation with the true KL is {low} (layer {at_low})."
CALIBRATED: Final = (
    "At KL factor {k} its stop chance is off by {points} points on average, most ({most}) at layer {layer}."
)
TOO_HIGH: Final = "Its mean is {points} points too high."
TOO_LOW: Final = "Its mean is {points} points too low."
UNBIASED: Final = "Its mean is right."
LOWERS_KL: Final = "At KL factor {k}, training lowers the mean KL of what tokens are read from."
LOWERS_NO_KL: Final = "At KL factor {k}, training does not lower the mean KL of what tokens are read from."
BEFORE_AND_AFTER: Final = "It is {before} before and {after} after (n = {n})."
FALLS_NOT: Final = "It does not fall {layers}."
