// What stands in an opened stop.

import { attention } from './attention'

export const opened = {
  ...attention,
  'opened': 'Block {number}, opened',
  'opened.embedding.plain': '{text} is token {id}: row {id} of a learned table of {vocabulary} rows, {width} numbers each.',
  'opened.embedding.turned': 'Its place in the text is not added here: each attention turns its queries and keys by the position instead.',
  'opened.embedding.added': 'A vector for its place in the text is added before the first block.',
  'opened.embedding.same': '{text} stands at {tokens} too, and starts there from the very same numbers.',
  'opened.end.plain': 'What the last block left of {text}, a vector of length {length}, is brought to a standard size and compared with every token.',
  'opened.end.logits': 'That gives {vocabulary} logits. The largest, {logit}, belongs to {text}.',
  'opened.end.tied': 'The rows are those of the embedding: this model uses one table for both.',
  'opened.end.untied': 'The rows are a table of their own.',
  'opened.attention': 'Attention',
  'opened.mlp': 'MLP',
  'opened.mlp.plain': 'For {text}, {active} of {hidden} neurons are above a tenth of the block’s largest; the strongest is neuron {neuron}.',
  'opened.neuron': 'neuron',
  'opened.value': 'hidden',
  'opened.gate': 'gate',
  'opened.up': 'up',
  'opened.stream': 'Length of the residual stream of {text}: {before} before, {middle} after attention, {after} after the MLP.',
} as const
