import { mount } from 'svelte'
import { follow } from './address.svelte'
import { fetchAhead } from './ahead'
import App from './App.svelte'
import './app.css'
import { desk } from './desk.svelte'
import { link } from './link.svelte'
import { screen } from './screen.svelte'

// The stored run is on its way already (index.html asks for it): to wait a moment for it is quicker than to lay the
// page out twice.
const patience = 120
await Promise.race([desk.first.session.open(), new Promise((done) => setTimeout(done, patience))])
mount(App, { target: document.getElementById('page')! })
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
