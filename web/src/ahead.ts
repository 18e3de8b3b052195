// What is opened later is fetched while the server still answers, so that everything opens without it too.

const parts = [
  () => import('./parts/opened/Opened.svelte'),
  () => import('./parts/lens/LensPicture.svelte'),
  () => import('./parts/next/Predicted.svelte'),
  () => import('./parts/next/Branches.svelte'),
  () => import('./parts/takeaway/Panel.svelte'),
  () => import('./takeaway/take'),
  () => import('./takeaway/open'),
  () => import('./parts/compare/Compare.svelte'),
  () => import('./parts/compare/Found.svelte'),
  () => import('./parts/lessons/Menu.svelte'),
  () => import('./parts/lessons/Card.svelte'),
  () => import('./parts/offers/Offers.svelte'),
  () => import('./parts/offers/Fetching.svelte'),
]

/** One after the other, so as not to stand in the way of a run. */
export async function fetchAhead() {
  for (const part of parts) await part().catch(() => undefined)
}
