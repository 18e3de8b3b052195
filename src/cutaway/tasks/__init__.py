"""What models other than decoders are asked: fill what is masked, tell classes apart, make vectors of texts, turn one
text into another."""

#: What a model of each kind is, in a sentence that begins with its name; what it does; and what it is asked with.
IS = {
    "continue": "continues a text",
    "fill": "fills in what is masked in a text",
    "classify": "tells classes of texts apart",
    "embed": "makes vectors of texts",
    "rewrite": "turns one text into another",
}
DOES = {
    "continue": "continue texts",
    "fill": "fill masks",
    "classify": "classify texts",
    "embed": "make vectors",
    "rewrite": "turn one text into another",
}
ASKED = {
    "continue": "next or generate",
    "fill": "fill",
    "classify": "classify",
    "embed": "embed or similar",
    "rewrite": "translate or summarize",
}
