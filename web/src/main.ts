import { mount } from 'svelte'
import App from './App.svelte'
import './app.css'
import { desk } from './desk.svelte'

// The stored run is on its way already (index.html asks for it): to wait a moment for it is quicker than to lay the
// page out twice.
const patience = 120
await Promise.race([desk.first.session.open(), new Promise((done) => setTimeout(done, patience))])
mount(App, { target: document.getElementById('page')! })
