/** Loads the neighbours of the slice in view before they are asked for, most of them in the direction of scrolling. */

import { PREFETCH } from "./api";
import { isLoaded, keepOnly, load } from "./frame-store";

const AHEAD = 16;
const BEHIND = 4;
const CONCURRENCY = 6;

export class Prefetcher {
  private queue: string[] = [];
  private running = 0;
  /** Frames that failed: shown with their error when the user gets there, not asked for again and again. */
  private readonly failed = new Set<string>();

  constructor(private readonly imageIds: string[]) {}

  /** Drops what is no longer near and queues what now is. `direction` is +1 or -1. */
  moveTo(index: number, direction: number): void {
    const near = this.neighbours(index, direction);
    keepOnly(new Set([this.imageIds[index] as string, ...near]));
    this.queue = near.filter((imageId) => !isLoaded(imageId) && !this.failed.has(imageId));
    this.pump();
  }

  stop(): void {
    this.queue = [];
  }

  private neighbours(index: number, direction: number): string[] {
    const ahead = Array.from({ length: AHEAD }, (_, i) => index + (i + 1) * direction);
    const behind = Array.from({ length: BEHIND }, (_, i) => index - (i + 1) * direction);
    return [...ahead, ...behind].map((i) => this.imageIds[i]).filter((imageId) => imageId !== undefined);
  }

  private pump(): void {
    while (this.running < CONCURRENCY) {
      const imageId = this.queue.shift();
      if (imageId === undefined) return;
      this.running += 1;
      void this.fetchOne(imageId);
    }
  }

  private async fetchOne(imageId: string): Promise<void> {
    try {
      await load(imageId, PREFETCH);
    } catch (error) {
      if (!(error instanceof DOMException)) this.failed.add(imageId);
    } finally {
      this.running -= 1;
      this.pump();
    }
  }
}
