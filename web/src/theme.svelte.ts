// Light or dark: what the system asks for, until the reader chooses.

type Choice = 'light' | 'dark' | null

class Theme {
  choice = $state<Choice>(null)
  private readonly system = window.matchMedia('(prefers-color-scheme: dark)')
  private systemIsDark = $state(this.system.matches)

  dark = $derived(this.choice === null ? this.systemIsDark : this.choice === 'dark')

  constructor() {
    const kept = read()
    if (kept) this.choice = kept
    this.system.addEventListener('change', () => {
      this.systemIsDark = this.system.matches
      this.apply()
    })
    this.apply()
  }

  toggle(): void {
    this.choice = this.dark ? 'light' : 'dark'
    write(this.choice)
    this.apply()
  }

  private apply(): void {
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light'
  }
}

function read(): Choice {
  try {
    const kept = localStorage.getItem('theme')
    return kept === 'light' || kept === 'dark' ? kept : null
  } catch {
    return null // storage may be forbidden; the system's choice serves
  }
}

function write(choice: Choice): void {
  try {
    if (choice) localStorage.setItem('theme', choice)
  } catch {
    // as above
  }
}

export const theme = new Theme()
