// The logit lens.

export const lens = {
  'lens': 'Logit lens',
} as const
