// The typefaces of the first picture, asked for by index.html itself: known only from the style sheet they would come
// after the first layout, and everything would be laid out twice.

import type { Plugin } from 'vite'

const first = /source-(serif-4-latin-wght-(normal|italic)|sans-3-latin-wght-normal)-[^/]*\.woff2$/

export const preloadFaces: Plugin = {
  name: 'preload-faces',
  transformIndexHtml: {
    order: 'post',
    handler: (_html, { bundle }) =>
      Object.keys(bundle ?? {})
        .filter((name) => first.test(name))
        .map((name) => ({
          tag: 'link',
          attrs: { rel: 'preload', href: `./${name}`, as: 'font', type: 'font/woff2', crossorigin: true },
          injectTo: 'head' as const,
        })),
  },
}
