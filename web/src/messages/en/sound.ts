// A sound instead of a text.

export const sound = {
  'sound.choose': 'Choose a sound',
  'sound.record': 'Record',
  'sound.record.stop': 'Stop recording',
  'sound.recorded': 'recording',
  'sound.deaf': 'No microphone can be used here: choose a file.',
  'sound.ways': 'A file can also be dropped here. It goes to the model on this machine and nowhere else.',
  'sound.none': 'Give the model a sound: choose a file, drop one here, or record one.',
  'sound.cut': 'Of {name} the first {seconds} seconds were sent.',
  'sound.picture': 'The sound, and the moment each word was written from',
  'sound.spectrogram': 'The sound as the model hears it: {bins} mel bins, low tones below, over {seconds} seconds',
  'sound.reads': 'How much {text} reads of each moment in the cross-attention of block {block}, the mean over heads',
  'sound.cell': '{to} reads {weight} from the moment at {from} s, the mean over heads',
  'sound.play': 'Written reading most at {at} s: plays from there',
  'sound.words': 'Bars: what {text} reads of each moment in block {block}. A word stands at the moment read most where it was written, by the position before it; click one to follow that, and to hear the moment.',
  'sound.words.none': 'Bars: what {text} reads of each moment in block {block}. Step, and the words that are written stand below at the moment that was read.',
  'opened.sound.plain': 'The stretch of the sound at {text}, twenty milliseconds of it: two convolutions make a vector of {width} numbers of its {bins} mel bins and the frames around it.',
} as const
