// What a keystroke has changed.

/** How many characters of a text stand between its beginning and its end that were there before. */
export function changed(before: string, now: string): number {
  const most = Math.min(before.length, now.length)
  let first = 0
  while (first < most && before[first] === now[first]) first++
  let last = 0
  while (last < most - first && before.at(-1 - last) === now.at(-1 - last)) last++
  return now.length - first - last
}
