import { expect, it } from 'vitest'
import { count, number, percent, scientific } from '../src/format'
import { parts, quoted } from '../src/pieces'

it.each([
  [0, '0\u202f%'],
  [1, '100.0\u202f%'],
  [0.00001, '<0.01\u202f%'],
  [0.99999, '>99.99\u202f%'],
  [0.0423, '4.23\u202f%'],
  [0.4683, '46.8\u202f%'],
])('%f reads %s', (share, text) => expect(percent(share)).toBe(text))

it.each([
  [0, '0'],
  [-1.5, '−1.500'],
  [0.99996, '1.000'],
  [-9.9998, '−10.00'],
  [12.3456, '12.35'],
  [-Infinity, '−∞'],
  [0.00001234, '1.2 × 10⁻⁵'],
])('%f reads %s', (value, text) => expect(number(value)).toBe(text))

it.each([
  [0, '0'],
  [999, '999'],
  [1000, '1,000'],
  [-2048, '-2,048'],
  [2570304, '2,570,304'],
  [99999.6, '100,000'],
])('%f counts %s', (n, text) => expect(count(n)).toBe(text))

it('writes powers with a true minus', () => expect(scientific(8.1e-6)).toBe('8.1 × 10⁻⁶'))

it('quotes a piece inside a sentence with its direction kept to itself', () => {
  expect(quoted('a\u202e')).toBe('\u2068“a⟨U+202E⟩”\u2069')
})

it.each([
  ['␣once', [{ text: '␣once', boxed: false }]],
  ['⟨E2⟩', [{ text: 'E2', boxed: true }]],
  ['<script>', [{ text: '<script>', boxed: false }]],
  ['a\u200bb', [{ text: 'a', boxed: false }, { text: 'U+200B', boxed: true }, { text: 'b', boxed: false }]],
  ['a⟨U+200B⟩', [{ text: 'a', boxed: false }, { text: 'U+200B', boxed: true }]],
  ['\u202e', [{ text: 'U+202E', boxed: true }]],
])('the piece %j is drawn as text', (piece, drawn) => expect(parts(piece)).toEqual(drawn))
