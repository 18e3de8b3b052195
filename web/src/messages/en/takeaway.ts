// What can be taken away from the page, and brought back.

export const takeaway = {
  'takeaway': 'Take away',
  'takeaway.about': 'pictures, a page that works without a server, the numbers, the Python that makes them',
  'picture.drawing': 'The whole drawing',
  'picture.block': 'Block {number}',
  'picture.distribution': 'The next token',
  'picture.draw': 'The draw',
  'pictures': 'Pictures',
  'pictures.about': 'Each as it now stands on the page, in light colours. SVG keeps text as text; PNG has twice the page’s resolution.',
  'picture.svg': 'SVG of {name}',
  'picture.png': 'PNG of {name}',
  'picture.take': 'Take away: {name}',
  'picture.says': '{name}. {model} on {text}. Made with Cutaway.',
  'picture.too.large': 'This picture is too large for a PNG here. Take the SVG.',
  'state.enclosed': 'One run in one file. Its sliders and blocks work as they are; your own text needs Cutaway itself: start “cutaway look”.',
  'state.enclosed.nothing': 'The run inside this file cannot be read. Take it away again.',
} as const
