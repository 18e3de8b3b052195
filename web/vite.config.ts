import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'
import { formulas } from './src/formulas/compile'

const server = process.env.CUTAWAY_SERVER ?? 'http://127.0.0.1:8000'

export default defineConfig({
  plugins: [svelte(), formulas()],
  base: './',
  build: {
    outDir: '../src/cutaway/page',
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's policy is default-src 'self': nothing may become a data: address
    modulePreload: { polyfill: false },
    target: 'es2022',
  },
  server: { host: '127.0.0.1', proxy: { '/api': server } },
})
