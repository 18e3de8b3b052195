import { describe, expect, it } from 'vitest'
import { inWords, parameters, secondsLeft, size } from '../src/parts/offers/amounts'

describe('a download', () => {
  it('says how large it is', () => {
    expect(size(548_000_000)).toBe('548 MB')
    expect(size(1_520_000_000)).toBe('1.52 GB')
    expect(size(1_400_000)).toBe('1.4 MB')
    expect(parameters(124_439_808)).toBe('124 M')
    expect(parameters(1_235_000_000)).toBe('1.2 B')
  })

  it('says how long it still takes, from where this page first heard of it', () => {
    const first = { at: 1000, bytes: 400 } // it is gone on with: 400 bytes were there
    expect(secondsLeft(first, { at: 3000, bytes: 600 }, 1000)).toBe(4)
    expect(secondsLeft(first, { at: 1500, bytes: 600 }, 1000)).toBeNull() // too early to tell
    expect(secondsLeft(first, { at: 3000, bytes: 400 }, 1000)).toBeNull()
    expect(inWords(4)).toBe('about 4 s')
    expect(inWords(240)).toBe('about 4 min')
    expect(inWords(7200)).toBe('about 2 h')
  })
})
