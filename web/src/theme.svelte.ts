// Light or dark, as the drawing follows it.

import { choose, chosen, dress, system, type Choice } from './theme'

class Theme {
  choice = $state<Choice>(chosen())
  private readonly system = system()
  private systemIsDark = $state(this.system.matches)

  dark = $derived(this.choice === null ? this.systemIsDark : this.choice === 'dark')

  constructor() {
    this.system.addEventListener('change', () => {
      this.systemIsDark = this.system.matches
      dress(this.dark)
    })
    dress(this.dark)
  }

  toggle(): void {
    this.choice = this.dark ? 'light' : 'dark'
    choose(this.choice)
    dress(this.dark)
  }
}

export const theme = new Theme()
