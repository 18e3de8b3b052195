// A picture instead of a text.

export const picture = {
  'picture.choose': 'Choose a picture',
  'picture.ways': 'A file can also be dropped here or pasted. It goes to the model on this machine and nowhere else.',
  'picture.none': 'Give the model a picture: choose a file, drop one here, or paste one.',
  'picture.pad': 'Draw here with the pointer; the model looks while you draw',
  'picture.pad.hint': 'Draw here',
  'picture.clear': 'Clear',
  'picture.shrunk': '{name} was made smaller before it was sent.',
  'picture.plain': 'Clear: what {text} reads in block {block}, head {head}. Click a patch to follow it instead.',
  'picture.seen': 'The picture as the model got it, and what {text} reads of it in block {block}, head {head}. Arrow keys read the patches, Enter follows one.',
  'picture.reads': 'What {text} reads, on the picture',
  'picture.alike': 'Patches like {text}',
  'picture.alike.stop': 'at the stream',
  'picture.alike.plain': 'Clear: patches whose vectors point the same way as that of {text}, {where}.',
  'picture.alike.cell': '{from} and {text}: cosine {value}',
  'picture.alike.picture': 'How alike the vectors of all patches are to that of {text}, {where}. Arrow keys read them, Enter follows one.',
  'mlp.one.seen': 'What in this picture switches it on',
  'mlp.one.picture': 'The picture, clear where neuron {neuron} is active. Arrow keys read its value on the patches, Enter follows one.',
  'opened.patch.plain': '{text} is a piece of the picture, {side} × {side} pixels: {count} numbers, made into a vector of {width} by one learned matrix.',
  'opened.patch.learned': '{text} is no patch: a learned vector that is the same for every picture, for the blocks to gather into.',
} as const
