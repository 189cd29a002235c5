# SPDX-License-Identifier: MIT
"""A chat under way: who answers, what was said, and what is known of the last answer. On the main thread."""

from __future__ import annotations

from coordinator.cli.chat_partner import Ended, Partner
from coordinator.cli.chat_screen import Screen
from coordinator.cli.conversation import Conversation
from coordinator.cli.exits import UserError
from coordinator.cli.interrupts import first_interrupt
from coordinator.cli.options import SamplingOptions


class ChatSession:
    """A conversation; a context manager that closes who answers.

    Args:
        tells_stats: After each answer.
    """

    def __init__(self, partner: Partner, sampling: SamplingOptions, screen: Screen, *, tells_stats: bool) -> None:
        self.conversation = Conversation()
        self.partner = partner
        self.sampling = sampling
        self.screen = screen
        self._tells_stats = tells_stats
        self.was_stopped = False
        self._last: Ended | None = None

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.partner.close()

    def say(self, text: str) -> None:
        """The user's next message, and the answer to it.

        Raises:
            UserError: It cannot be answered, and was not said.
        """
        self.conversation.ask(text)
        try:
            self._answer()
        except UserError:
            self.conversation.take_back()
            raise

    def regenerate(self) -> None:
        """Gives the last answer anew.

        Raises:
            UserError: There is none, or no other one; the conversation is as it was.
        """
        before = self.conversation.forget_answer()
        if before is None:
            raise UserError("there is no answer yet that could be given anew")
        try:
            self._answer()
        except UserError:
            self.conversation.answer(before)
            raise

    def _answer(self) -> None:
        """Answers what the user said last, on stdout as it comes. Ctrl-C stops it, and what there is of it stays.

        Raises:
            UserError: It cannot be answered.
            CaravanError: No request can be answered any more.
        """
        self.was_stopped, written = False, []
        reply = self.partner.reply(self.conversation.messages, self.sampling)
        with first_interrupt(reply.cancel), reply as texts:
            try:
                for text in texts:
                    written.append(text)
                    self.screen.write(text)
            finally:
                self.screen.end_answer()
        self.conversation.answer("".join(written))
        self._note(reply.ended())

    def change_model(self, model: str) -> None:
        """Another model answers from now on; raises as `Partner.change_model`."""
        self.partner.change_model(model)
        self._last = None

    def stats_text(self) -> str:
        """How fast the last answer was, what limited it, how full the context is, and who has what."""
        about = self.partner.about()
        if self._last is None:
            return f"there is no answer yet\n{about}"
        return "\n".join([self._last.speed, *self._last.details, about])

    def _note(self, ended: Ended) -> None:
        self._last = ended
        self.was_stopped = ended.was_stopped
        if ended.was_stopped:
            self.screen.tell("stopped; Ctrl-C again leaves", style="dim")
        elif ended.is_cut:
            self.screen.tell("it ends here for want of tokens: --max-tokens, or the context (--context) is full", "dim")
        if self._tells_stats:
            self.screen.tell(ended.speed, style="dim")
