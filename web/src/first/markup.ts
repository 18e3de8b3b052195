// The page as it stands with the stored run on a usual screen: rendered when the page is built (web/firstpicture.ts).

import { render } from 'svelte/server'
import App from '../App.svelte'
import { desk } from '../desk.svelte'

export function markup(bytes: ArrayBuffer, vocabulary: string[]): string {
  desk.first.session.begin(bytes, vocabulary)
  // The page's policy lets no style stand in the markup: first.ts puts them on.
  return render(App).body.replaceAll(/ (?=style=")/g, ' data-')
}
