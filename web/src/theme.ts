// Which of light and dark the page is in: what the system asks for, until the reader chooses.

export type Choice = 'light' | 'dark' | null

export const system = () => window.matchMedia('(prefers-color-scheme: dark)')

/** What the reader chose the last time. */
export function chosen(): Choice {
  try {
    const kept = localStorage.getItem('theme')
    return kept === 'light' || kept === 'dark' ? kept : null
  } catch {
    return null // storage may be forbidden; the system's choice serves
  }
}

export function choose(choice: Choice): void {
  try {
    if (choice) localStorage.setItem('theme', choice)
  } catch {
    // as above
  }
}

/** The style sheet has both. */
export function dress(dark: boolean): void {
  document.documentElement.dataset.theme = dark ? 'dark' : 'light'
}
