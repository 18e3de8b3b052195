"""What models other than decoders are asked: fill what is masked, tell classes apart, see what an image shows, make
vectors, turn one text into another, write down what is said."""

#: What a model of each kind is, in a sentence that begins with its name; what it does; and what it is asked with.
IS = {
    "continue": "continues a text",
    "fill": "fills in what is masked in a text",
    "classify": "tells classes of texts apart",
    "see": "tells what an image shows",
    "embed": "makes vectors",
    "rewrite": "turns one text into another",
    "transcribe": "writes down what is said",
}
DOES = {
    "continue": "continue texts",
    "fill": "fill masks",
    "classify": "classify texts",
    "see": "see images",
    "embed": "make vectors",
    "rewrite": "turn one text into another",
    "transcribe": "write down what is said",
}
ASKED = {
    "continue": "next or generate",
    "fill": "fill",
    "classify": "classify",
    "see": "see",
    "embed": "embed or similar",
    "rewrite": "translate or summarize",
    "transcribe": "transcribe",
}
