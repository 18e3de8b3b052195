// From the last vector to the next token.

export const next = {
  'distribution': 'Next token',
  'distribution.after': 'after {text}, over all {vocabulary}',
  'distribution.rest': 'everything else ({count})',
  'distribution.cut': 'cut',
  'distribution.row': '{text}, id {id}: logit {logit}, {p} after the settings, {plain} as the model gave it',
  'sampling': 'From logits to one token',
  'temperature': 'Temperature',
  'temperature.argmax': 'T = 0: no draw. The largest logit is taken (argmax).',
  'temperature.about': 'every logit ÷ {value}',
  'top-k': 'Top-k',
  'top-p': 'Top-p',
  'min-p': 'Min-p',
  'off': 'off',
  'kept': 'keeps {kept} of {before}: {mass} of the probability',
  'keeps.all': 'keeps all {before}',
  'draw': 'The draw',
  'draw.about': 'Probabilities laid end to end in the order of the token ids. u = {u}, from seed {seed} and step {step}, falls on',
  'draw.argmax': 'Nothing is drawn: all of the probability lies on',
  'draw.segment': '{text}, id {id}: from {from} to {to}',
} as const
