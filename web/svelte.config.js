import { vitePreprocess } from '@sveltejs/vite-plugin-svelte'

// A canvas with a name is a picture to a screen reader; Svelte counts every canvas as interactive and objects.
const pictures = 'a11y_no_interactive_element_to_noninteractive_role'

export default {
  preprocess: vitePreprocess(),
  compilerOptions: { warningFilter: (warning) => warning.code !== pictures },
}
