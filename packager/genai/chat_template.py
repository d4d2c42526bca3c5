"""Chat templates, written so that the runtime's template engine reads them as Jinja does.

ONNX Runtime GenAI has an engine of its own (minja). It knows no `text.replace(a, b)`, and takes
`part in text` for false without a word. Both can be said with a split, which it knows; what is
written here means the same to Jinja.
"""

from jinja2 import Environment, TemplateSyntaxError

Tokens = list[tuple[str, str]]
"""Type and text of each token of a template, white space and the text between blocks included."""

_OPEN, _CLOSE = ("(", "[", "{"), (")", "]", "}")
_TIGHTER = ("|", "~", "+", "-", "*", "/", "//", "%", "**", ".", "(", "[")
"""What binds tighter than `in`: an operand beside it is more than names and calls."""


def readable(template: str) -> str:
    """A template of the same meaning that the runtime can read.

    Left as it is where it cannot be told what belongs together; whoever needs to know whether the
    runtime agrees must ask it.
    """
    # Only its lexer: nothing is rendered, so nothing to escape.
    lexer = Environment()  # noqa: S701
    try:
        tokens: Tokens = [(kind, text) for _, kind, text in lexer.lex(template)]
    except TemplateSyntaxError:
        return template
    _replace_replace(tokens)
    _replace_in(tokens)
    return "".join(text for _, text in tokens)


def _replace_replace(tokens: Tokens) -> None:
    """`x.replace(a, b)` becomes `(x.split(a) | join(b))`."""
    at = 0
    while at < len(tokens) - 2:
        if [text for _, text in tokens[at : at + 3]] != [".", "replace", "("]:
            at += 1
            continue
        begin, end = _operand_start(tokens, at), _closing(tokens, at + 2)
        arguments = _arguments(tokens[at + 3 : end])
        if begin == at or len(arguments) != 2:
            at += 1
            continue
        subject, (old, new) = tokens[begin:at], arguments
        made = [*_code("("), *subject, *_code(".", "split", "("), *old, *_code(")")]
        made += [*_code(" | ", "join", "("), *new, *_code(")", ")")]
        tokens[begin : end + 1] = made
        at = begin


def _replace_in(tokens: Tokens) -> None:
    """`a in x` becomes `(a in x or (x is string and x.split(a) | length > 1))`."""
    at = 0
    while at < len(tokens):
        at += 1
        if tokens[at - 1] != ("name", "in") or _is_of_loop(tokens, at - 1):
            continue
        left_end = _back_over_space(tokens, at - 1)
        negated = left_end > 0 and tokens[left_end - 1] == ("name", "not")
        if negated:
            left_end = _back_over_space(tokens, left_end - 1)
        left_start = _operand_start(tokens, left_end)
        right_start = _over_space(tokens, at)
        right_end = _operand_end(tokens, right_start)
        before = tokens[_back_over_space(tokens, left_start) - 1][1]
        after = tokens[_over_space(tokens, right_end)][1]
        left, right = tokens[left_start:left_end], tokens[right_start:right_end]
        if not left or not right or before in _TIGHTER[:-2] or after in _TIGHTER:
            continue
        made = [*left, *_code(" ", "in", " "), *right, *_code(" or ", "(")]
        made += [*right, *_code(" is string and "), *right, *_code(".", "split", "(")]
        made += [*left, *_code(")", " | ", "length", " > 1", ")")]
        if negated:
            made = _code("not ", "(") + made + _code(")")
        made = _code("(") + made + _code(")")
        tokens[left_start:right_end] = made
        at = left_start + len(made)


def _code(*texts: str) -> Tokens:
    return [("code", text) for text in texts]


def _is_of_loop(tokens: Tokens, at: int) -> bool:
    """Whether an `in` is that of a `for`: the first one of its block."""
    names = []
    while at > 0 and tokens[at][0] != "block_begin":
        if tokens[at][0] == "variable_begin":
            return False
        names.append(tokens[at][1])
        at -= 1
    return names.count("in") == 1 and "for" in names


def _over_space(tokens: Tokens, at: int) -> int:
    while at < len(tokens) - 1 and tokens[at][0] == "whitespace":
        at += 1
    return at


def _back_over_space(tokens: Tokens, end: int) -> int:
    while end > 0 and tokens[end - 1][0] == "whitespace":
        end -= 1
    return end


def _operand_start(tokens: Tokens, end: int) -> int:
    """Where the names, texts, calls and subscripts that end before `end` begin."""
    at = end
    while at > 0:
        kind, text = tokens[at - 1]
        if text in _CLOSE:
            depth = 0
            while at > 0:
                at -= 1
                depth += (tokens[at][1] in _CLOSE) - (tokens[at][1] in _OPEN)
                if depth == 0:
                    break
            # What a parenthesis belongs to, a call or a subscript, is before it.
            if at > 0 and (tokens[at - 1][0] in ("name", "string") or tokens[at - 1][1] in _CLOSE):
                continue
            return at
        if kind not in ("name", "string", "integer"):
            return at
        at -= 1
        if at == 0 or tokens[at - 1][1] != ".":
            return at
        at -= 1
    return at


def _operand_end(tokens: Tokens, start: int) -> int:
    """Where the operand that begins at `start` ends: a name or text, with what is called of it."""
    if start >= len(tokens) or tokens[start][0] not in ("name", "string"):
        return start
    at = start + 1
    while at < len(tokens):
        text = tokens[at][1]
        if text == "." and at + 1 < len(tokens) and tokens[at + 1][0] == "name":
            at += 2
        elif text in ("(", "["):
            at = _closing(tokens, at) + 1
        else:
            break
    return at


def _closing(tokens: Tokens, opening: int) -> int:
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at][1] in _OPEN) - (tokens[at][1] in _CLOSE)
        if depth == 0:
            return at
    return len(tokens)


def _arguments(tokens: Tokens) -> list[Tokens]:
    """The arguments of a call."""
    found: list[Tokens] = [[]]
    depth = 0
    for part in tokens:
        depth += (part[1] in _OPEN) - (part[1] in _CLOSE)
        if part[1] == "," and depth == 0:
            found.append([])
        elif found[-1] or part[0] != "whitespace":
            found[-1].append(part)
    return found
