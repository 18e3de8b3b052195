// The drawn token travels from where it was drawn to the end of the text.

import { parts } from './pieces'
import { screen } from './screen.svelte'

const duration = 420

/** Resolves when the token has arrived: at once when motion is unwanted or there is nowhere to start or to go. */
export async function travel(text: string, start: Element | null, end: Element | null | undefined): Promise<void> {
  if (!start || !end || screen.calm || document.hidden) return
  const [from, to] = [start.getBoundingClientRect(), end.getBoundingClientRect()]
  const chip = document.createElement('span')
  chip.className = 'travelling'
  chip.textContent = parts(text).map((part) => part.text).join('')
  chip.setAttribute('aria-hidden', 'true')
  document.body.append(chip)
  const [x, y] = [to.left - from.left, to.top - from.top]
  chip.style.left = `${from.left}px`
  chip.style.top = `${from.top}px`
  const flight = chip.animate(
    [
      { transform: 'translate(0, 0)', opacity: 1 },
      { transform: `translate(${x * 0.5}px, ${y * 0.5 - 36}px)`, opacity: 1, offset: 0.55 },
      { transform: `translate(${x}px, ${y}px)`, opacity: 0.9 },
    ],
    { duration, easing: 'cubic-bezier(.45, 0, .25, 1)' },
  )
  await flight.finished.catch(() => undefined)
  chip.remove()
}
