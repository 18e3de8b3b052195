// What on the page is a picture, and what it is called.

export interface Picture {
  name: string
  root: HTMLElement
}

/** What is a picture: an element that says so, with its name, and every canvas that has a name for who does not see it,
 * but for the many strips of one table. */
export const isPicture = '[data-picture], canvas[role="img"]:not([data-of])'

/** The pictures on show, smaller ones inside larger ones too; a canvas that is all of a picture is not told twice. */
export function pictures(within: HTMLElement): Picture[] {
  const shown = [...within.querySelectorAll<HTMLElement>(isPicture)].filter((root) => root.getClientRects().length > 0)
  const named = shown.map((root) => ({ root, name: nameOf(root) }))
  const around = ({ root }: Picture) => root.parentElement?.closest<HTMLElement>('[data-picture]')?.dataset.picture
  const once = named.filter((picture) => picture.name && around(picture) !== picture.name)
  // Where two share their first words, the rest of what they are called tells them apart.
  return once.map((picture) =>
    once.some((other) => other !== picture && other.name === picture.name) ? { ...picture, name: nameOf(picture.root, /[.;](\s|$)/) } : picture,
  )
}

/** The first words of what a picture is called: what follows says how to read it. */
export const nameOf = (root: HTMLElement, end = /[.:,;](\s|$)/): string =>
  root.dataset.picture ?? (root.getAttribute('aria-label') ?? '').split(end)[0]
