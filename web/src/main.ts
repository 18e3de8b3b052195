import { hydrate, mount } from 'svelte'
import { follow } from './address.svelte'
import { fetchAhead } from './ahead'
import App from './App.svelte'
import './app.css'
import { desk } from './desk.svelte'
import { link } from './link.svelte'
import { screen } from './screen.svelte'

const page = document.getElementById('page')!
const opened = desk.first.session.open()
// The run is on its way already: to wait a moment for it is quicker than to lay the page out twice.
await (page.firstChild ? opened : Promise.race([opened, new Promise((done) => setTimeout(done, 120))]))
if (page.firstChild && desk.first.session.run) hydrate(App, { target: page }) // what first/first.ts shows comes alive
else {
  page.replaceChildren()
  mount(App, { target: page })
}
page.inert = false
follow(desk.first.session, desk.first.view)
// The rest of the page, and the server, are looked for when the picture stands: until then they would take its time.
await shown()
screen.settled = true
void link.connect()
setTimeout(fetchAhead, 1000)

/** The browser has shown what was drawn; in a tab out of sight, where it shows nothing, a moment has passed. */
function shown(): Promise<void> {
  return new Promise((done) => {
    setTimeout(done, 400)
    new PerformanceObserver((list) => {
      if (list.getEntriesByName('first-contentful-paint').length) done()
    }).observe({ type: 'paint', buffered: true })
  })
}
