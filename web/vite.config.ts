import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type UserConfig } from 'vite'
import { firstPicture } from './firstpicture'
import { oneScript, packed, preloads, stackless } from './preload'
import { formulas } from './src/formulas/compile'
import { standalone } from './standalone'

const server = process.env.CUTAWAY_SERVER ?? 'http://127.0.0.1:8000'

const outDir = '../src/cutaway/page'
const target = 'es2022'

const page: UserConfig = {
  plugins: [svelte(), formulas(), stackless, preloads, firstPicture, packed],
  base: './',
  build: {
    outDir,
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's policy is default-src 'self': nothing may become a data: address
    modulePreload: { polyfill: false },
    rolldownOptions: { output: { codeSplitting: oneScript } },
    target,
  },
  server: { host: '127.0.0.1', proxy: { '/api': server } },
}

/** The same page in one file, beside the other: `vite build --mode standalone`, after it. */
const alone: UserConfig = {
  plugins: [svelte(), formulas(), standalone],
  build: {
    outDir,
    emptyOutDir: false,
    copyPublicDir: false,
    assetsInlineLimit: Number.MAX_SAFE_INTEGER,
    cssCodeSplit: false,
    rolldownOptions: { input: 'src/main.ts', output: { codeSplitting: false } },
    target,
  },
}

export default defineConfig(({ mode }) => (mode === 'standalone' ? alone : page))
