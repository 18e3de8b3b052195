import { describe, expect, it } from 'vitest'
import { largestOf, movedBy, sparsity } from '../src/neurons'

describe('the neurons of an MLP', () => {
  it('are ordered by magnitude, whatever their sign', () => {
    expect(largestOf([0.1, -3, 2, 0, -0.5], 3)).toEqual([1, 2, 4])
  })

  it('are counted against the largest', () => {
    const found = sparsity([-10, 2, 0.5, 0.2, 0.05, 0], [10, 4, 1, 1, 0, 0])
    expect(found).toEqual({ tenth: 2, hundredth: 4, share: 1 })
    expect(sparsity([1, 1], null).share).toBeNull()
  })

  it('share out their strength', () => {
    const strength = Array.from({ length: 20 }, (_, i) => (i < 10 ? 3 : 1))
    expect(sparsity(strength, strength).share).toBe(0.75)
  })

  it('push against their column below zero', () => {
    const promotes = [{ id: 7, unit: 0.5, moved: 0 }]
    const demotes = [{ id: 9, unit: -0.25, moved: 0 }]
    expect(movedBy(2, promotes, demotes)).toEqual({
      raised: [{ id: 7, unit: 0.5, moved: 1 }],
      lowered: [{ id: 9, unit: -0.25, moved: -0.5 }],
    })
    expect(movedBy(-2, promotes, demotes)).toEqual({
      raised: [{ id: 9, unit: -0.25, moved: 0.5 }],
      lowered: [{ id: 7, unit: 0.5, moved: -1 }],
    })
  })
})
