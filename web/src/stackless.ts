// Imported before everything else. Svelte makes an Error while it is being loaded, for whose stack the engine reads the
// whole script once more: 10 ms of the first picture. main.ts wants stacks again.

const engine = Error as unknown as { stackTraceLimit?: number }
const usual = engine.stackTraceLimit
engine.stackTraceLimit = 0

export const stacksAgain = () => (engine.stackTraceLimit = usual)
