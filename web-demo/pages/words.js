// words.js: BERT's uncased WordPiece tokenizer (Devlin et al., 2018). The vocabulary marks a piece that begins a word with ▁; the others go on with one.
const PUNCTUATION = /[\p{P}$+<=>^`|~]/u, IDEOGRAPH = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2ebe0}]/u;
const UNKNOWN = 100, BEGIN = 101, END = 102, LONGEST = 100;

export class Tokenizer {
  #numbers;

  /** vocabulary: the pieces in the order of their numbers. */
  constructor(vocabulary) {
    this.#numbers = new Map(vocabulary.map((piece, number) => [piece, number]));
  }

  /** The numbers of a text's pieces, at most `limit`, with those that begin and end it. */
  encode(text, limit = 128) {
    return [BEGIN, ...words(text).flatMap((word) => this.#pieces(word)).slice(0, limit - 2), END];
  }

  /** Greedy: the longest piece the word begins with, then the longest that goes on. */
  #pieces(word) {
    const letters = [...word], made = [];
    if (letters.length > LONGEST) return [UNKNOWN];
    for (let at = 0; at < letters.length;) {
      let end = letters.length, number;
      while (end > at && (number = this.#numbers.get((at ? "" : "▁") + letters.slice(at, end).join(""))) === undefined) end--;
      if (number === undefined) return [UNKNOWN];
      made.push(number);
      at = end;
    }
    return made;
  }
}

/** Words and signs: no accents, no control characters, lower case; a sign of punctuation and an ideograph are words of their own. */
function words(text) {
  const clean = text.replace(/[\p{Cc}\p{Cf}]/gu, (c) => (/\s/.test(c) ? " " : "")).toLowerCase().normalize("NFD").replace(/\p{Mn}/gu, "");
  return Array.from(clean, (c) => (PUNCTUATION.test(c) || IDEOGRAPH.test(c) ? ` ${c} ` : c)).join("").split(/\s+/).filter(Boolean);
}
