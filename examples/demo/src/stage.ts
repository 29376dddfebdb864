import { styleText } from "node:util";

/** Prints the steps and checks of the demo, and remembers whether every check passed. */
export class Stage {
  #number = 0;
  #failures = 0;

  /** Prints the title of the next step. */
  begin(title: string): void {
    this.#number++;
    console.log(`\n${styleText("bold", `${this.#number}. ${title}`)}`);
  }

  /** Prints a detail. */
  show(text: string): void {
    console.log(`   ${styleText("dim", text)}`);
  }

  /** Prints a claim, and whether it holds. */
  hold(claim: string, holds: boolean): void {
    if (!holds) this.#failures++;
    console.log(`   ${holds ? styleText("green", "✓") : styleText("red", "✗ FAILED:")} ${claim}`);
  }

  /** Prints whether every claim holds. */
  end(): void {
    console.log(this.allHeld ? "\nEvery check passed." : "\nSome checks failed.");
  }

  /** True if every claim holds so far. */
  get allHeld(): boolean {
    return this.#failures === 0;
  }
}
