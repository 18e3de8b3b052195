"""What comes next? The probability of every token in the vocabulary, the ten most probable of them shown."""

import sys

import cutaway

text = " ".join(sys.argv[1:]) or "Once upon a time there was a"
model = cutaway.load("stories")
prediction = model.next(text)

print(f"{text} ...")
for choice in prediction.top(10):
    print(f"{choice.p:7.2%}  {choice.text}")
print(f"{prediction.rest(10):7.2%}  all {len(prediction.probabilities) - 10} others together")
