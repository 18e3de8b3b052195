import { expect, test } from 'vitest'
import { changed } from '../src/typed'

test.each([
  ['Once upon a time', 'Once upon a time', 0],
  ['Once upon a time', 'Once upon a times', 1],
  ['Once upon a time', 'Once upon time', 0],
  ['Once upon a time', 'Once upon many a time', 5],
  ['', 'Once', 4],
  ['Once', '', 0],
  ['aaa', 'aaaa', 1],
  ['a tree', 'two trees', 9],
])('what is new from %j to %j', (before, now, count) => {
  expect(changed(before, now)).toBe(count)
})
