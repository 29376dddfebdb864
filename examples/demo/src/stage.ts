import { styleText } from "node:util";

/** Prints what the demo does, and remembers whether all of it held. */
export class Stage {
  #number = 0;
  #failures = 0;

  /** A new act. */
  begin(title: string): void {
    this.#number++;
    console.log(`\n${styleText("bold", `${this.#number}. ${title}`)}`);
  }

  /** Something to look at. */
  show(text: string): void {
    console.log(`   ${styleText("dim", text)}`);
  }

  /** Something that must be so. */
  hold(claim: string, holds: boolean): void {
    if (!holds) this.#failures++;
    console.log(`   ${holds ? styleText("green", "✓") : styleText("red", "✗ NOT SO:")} ${claim}`);
  }

  /** Whether everything held. */
  get allHeld(): boolean {
    return this.#failures === 0;
  }
}
