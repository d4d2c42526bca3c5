"""Chat templates, rewritten so that the runtime's template engine renders them as Jinja does.

ONNX Runtime GenAI has its own engine (minja). It does not support `text.replace(a, b)`, and
silently evaluates `part in text` to false. Both can be expressed with `split`, which it supports;
the rewritten template means the same to Jinja.
"""

from jinja2 import Environment, TemplateSyntaxError

Tokens = list[tuple[str, str]]
"""Type and text of each token of a template, including white space and the text between blocks."""

_OPEN, _CLOSE = ("(", "[", "{"), (")", "]", "}")
_TIGHTER = ("|", "~", "+", "-", "*", "/", "//", "%", "**", ".", "(", "[")
"""Operators that bind tighter than `in`: an operand beside one is more than names and calls."""


def rewrite(template: str) -> str:
    """Return an equivalent template that the runtime can render.

    Expressions whose operands cannot be determined stay unchanged; only a comparison with the
    runtime (`tokenizer_files.differences`) shows if it agrees.
    """
    # Only the lexer is used: nothing is rendered, so nothing to escape.
    lexer = Environment()  # noqa: S701
    try:
        tokens: Tokens = [(kind, text) for _, kind, text in lexer.lex(template)]
    except TemplateSyntaxError:
        return template
    _rewrite_replace(tokens)
    _rewrite_in(tokens)
    return "".join(text for _, text in tokens)


def _rewrite_replace(tokens: Tokens) -> None:
    """Turn `x.replace(a, b)` into `(x.split(a) | join(b))`."""
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
        expression = [*_code("("), *subject, *_code(".", "split", "("), *old, *_code(")")]
        expression += [*_code(" | ", "join", "("), *new, *_code(")", ")")]
        tokens[begin : end + 1] = expression
        at = begin


def _rewrite_in(tokens: Tokens) -> None:
    """Turn `a in x` into `(a in x or (x is string and x.split(a) | length > 1))`."""
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
        expression = [*left, *_code(" ", "in", " "), *right, *_code(" or ", "(")]
        expression += [*right, *_code(" is string and "), *right, *_code(".", "split", "(")]
        expression += [*left, *_code(")", " | ", "length", " > 1", ")")]
        if negated:
            expression = _code("not ", "(") + expression + _code(")")
        expression = _code("(") + expression + _code(")")
        tokens[left_start:right_end] = expression
        at = left_start + len(expression)


def _code(*texts: str) -> Tokens:
    return [("code", text) for text in texts]


def _is_of_loop(tokens: Tokens, at: int) -> bool:
    """Return whether an `in` belongs to a `for`: it is the first `in` of its block."""
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
    """Return the start of the chain of names, strings, calls and subscripts that ends at `end`."""
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
            # Of a call or a subscript, the callee comes before the parenthesis.
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
    """Return the end of the operand at `start`: a name or string with its calls and subscripts."""
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
    """Return the index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at][1] in _OPEN) - (tokens[at][1] in _CLOSE)
        if depth == 0:
            return at
    return len(tokens)


def _arguments(tokens: Tokens) -> list[Tokens]:
    """Split the tokens of a call's arguments at commas."""
    arguments: list[Tokens] = [[]]
    depth = 0
    for token in tokens:
        depth += (token[1] in _OPEN) - (token[1] in _CLOSE)
        if token[1] == "," and depth == 0:
            arguments.append([])
        elif arguments[-1] or token[0] != "whitespace":
            arguments[-1].append(token)
    return arguments
