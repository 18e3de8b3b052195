import { describe, expect, it } from 'vitest'
import { filled } from '../src/masks'
import type { Recording } from '../src/recording'

const run = (own: string, ...masks: number[]) =>
  ({ masks, pieces: Array.from({ length: 9 }, (_, i) => ({ id: i, text: masks.includes(i) ? own : 'a' })) }) as unknown as Recording

describe('a mask filled', () => {
  it('is the word in its place, whichever mask it is', () => {
    const its = run('[MASK]', 2, 5)
    expect(filled('A [MASK] of [MASK].', its, 5, 'tea')).toBe('A [MASK] of tea.')
    expect(filled('A [MASK] of [MASK].', its, 2, 'cup')).toBe('A cup of [MASK].')
  })

  it('knows the model’s own word for a mask, and one space is enough', () => {
    expect(filled('It is <mask>.', run('<mask>', 3), 3, '␣Paris')).toBe('It is Paris.')
    expect(filled('<mask> is it.', run('<mask>', 1), 1, '␣Paris')).toBe('Paris is it.')
    expect(filled('It is[MASK].', run('<mask>', 3), 3, '␣Paris')).toBe('It is Paris.')
  })

  it('goes on with the word before where the token does', () => {
    expect(filled('walk [MASK] home', run('[MASK]', 2), 2, '##ing')).toBe('walking home')
  })

  it('is left to the server where the text lacks the mask or the token is no character', () => {
    expect(filled('no mask', run('[MASK]', 2), 2, 'tea')).toBeNull()
    expect(filled('a [MASK]', run('[MASK]', 2), 2, '⟨E2⟩')).toBeNull()
  })
})
