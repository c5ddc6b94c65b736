"""The sixteen tools of a retail agent. Names and arguments are tau-bench's, words and code are our own."""

from typing import Literal

from ...calculator import evaluate
from ...errors import ToolError
from ...task import Task
from ...tools import ToolEnv, tool
from . import writes
from .database import Database, Order, Product, User


class RetailTools(ToolEnv[Task]):
    """`database` and `is_transferred` are the state that they work on. None waits for anything, so calls
    in one message take effect in their order."""

    database: Database
    is_transferred = False

    @tool
    async def calculate(self, expression: str) -> str:
        """Calculate an expression. The result is rounded to two digits.

        Args:
            expression: numbers, + - * / and parentheses, such as '2 * (3 + 4)'
        """
        try:
            return str(round(float(evaluate(expression)), 2))
        except ValueError as error:
            raise ToolError(str(error)) from error
        except OverflowError as error:
            raise ToolError(f"{expression!r:.100} comes to a number of over 308 digits") from error

    @tool
    async def cancel_pending_order(
        self, order_id: str, reason: Literal["no longer needed", "ordered by mistake"]
    ) -> Order:
        """Cancel a pending order. The refund is at once on a gift card, elsewhere in 5 to 7 business days.
        Explain it and get the user's explicit yes first. Returns the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            reason: the user's
        """
        return writes.cancel(self.database, order_id, reason)

    @tool
    async def exchange_delivered_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> Order:
        """Exchange items of a delivered order for others of the same product. An order can be returned or
        exchanged once. Explain it and get the user's explicit yes first. Returns the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            item_ids: the items to give back; an id may stand there twice
            new_item_ids: the new items, each in the position of the one it replaces
            payment_method_id: pays the difference in price or receives it, such as 'gift_card_0000000'
        """
        return writes.request_exchange(self.database, order_id, item_ids, new_item_ids, payment_method_id)

    @tool
    async def find_user_id_by_email(self, email: str) -> str:
        """Find a user's id by email.

        Args:
            email: such as 'name@example.com'
        """
        found = self.database.shop.user_by_email.get(email.lower())
        if found is None:
            raise ToolError(f"no user has the email {email!r}")
        return found

    @tool
    async def find_user_id_by_name_zip(self, first_name: str, last_name: str, zip: str) -> str:
        """Find a user's id by name and zip code, where the email is not known or not found.

        Args:
            first_name: such as 'John'
            last_name: such as 'Doe'
            zip: of the user's address, such as '12345'
        """
        wanted = (first_name.lower(), last_name.lower())
        for user_id, user in self.database.shop.users.items():
            name = (user["name"]["first_name"].lower(), user["name"]["last_name"].lower())
            if name == wanted and self.database.user(user_id)["address"]["zip"] == zip:
                return user_id
        raise ToolError(f"no user is called {first_name} {last_name} and has the zip code {zip!r}")

    @tool
    async def get_order_details(self, order_id: str) -> Order:
        """Get the status and the details of an order.

        Args:
            order_id: with its '#', such as '#W0000000'
        """
        return self.database.order(order_id)

    @tool
    async def get_product_details(self, product_id: str) -> Product:
        """Get the items of a product: options, price, and whether they are available.

        Args:
            product_id: such as '6086499569'; not an item's id
        """
        return self.database.product(product_id)

    @tool
    async def get_user_details(self, user_id: str) -> User:
        """Get a user's profile: address, email, payment methods and orders.

        Args:
            user_id: such as 'sara_doe_496'
        """
        return self.database.user(user_id)

    @tool
    async def list_all_product_types(self) -> dict[str, str]:
        """List the products by name, with their product ids."""
        products = self.database.shop.products.values()
        return dict(sorted((product["name"], product["product_id"]) for product in products))

    @tool
    async def modify_pending_order_address(
        self, order_id: str, address1: str, address2: str, city: str, state: str, country: str, zip: str
    ) -> Order:
        """Change the shipping address of a pending order. Explain it and get the user's explicit yes first.
        Returns the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            address1: the first line, such as '123 Main St'
            address2: the second line, such as 'Apt 1', or ''
            city: such as 'San Francisco'
            state: such as 'CA'
            country: such as 'USA'
            zip: such as '12345'
        """
        return writes.change_address(
            self.database,
            order_id,
            address1=address1,
            address2=address2,
            city=city,
            state=state,
            country=country,
            zip=zip,
        )

    @tool
    async def modify_pending_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> Order:
        """Change items of a pending order to others of the same product. This can be done once, and the order
        cannot be changed or cancelled afterwards. Explain it and get the user's explicit yes first. Returns
        the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            item_ids: the items to change; an id may stand there twice
            new_item_ids: the new items, each in the position of the one it replaces
            payment_method_id: pays the difference in price or receives it, such as 'gift_card_0000000'
        """
        return writes.change_items(self.database, order_id, item_ids, new_item_ids, payment_method_id)

    @tool
    async def modify_pending_order_payment(self, order_id: str, payment_method_id: str) -> Order:
        """Change the payment method of a pending order. Explain it and get the user's explicit yes first.
        Returns the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            payment_method_id: the new one, such as 'gift_card_0000000'; the user's details list them
        """
        return writes.change_payment(self.database, order_id, payment_method_id)

    @tool
    async def modify_user_address(
        self, user_id: str, address1: str, address2: str, city: str, state: str, country: str, zip: str
    ) -> User:
        """Change a user's default address. Explain it and get the user's explicit yes first. Returns the
        user.

        Args:
            user_id: such as 'sara_doe_496'
            address1: the first line, such as '123 Main St'
            address2: the second line, such as 'Apt 1', or ''
            city: such as 'San Francisco'
            state: such as 'CA'
            country: such as 'USA'
            zip: such as '12345'
        """
        return writes.change_user_address(
            self.database,
            user_id,
            address1=address1,
            address2=address2,
            city=city,
            state=state,
            country=country,
            zip=zip,
        )

    @tool
    async def return_delivered_order_items(
        self, order_id: str, item_ids: list[str], payment_method_id: str
    ) -> Order:
        """Return items of a delivered order. The user is told by email how to send them.
        Explain it and get the user's explicit yes first. Returns the order.

        Args:
            order_id: with its '#', such as '#W0000000'
            item_ids: the items to return; an id may stand there twice
            payment_method_id: receives the refund; the one that paid, or a gift card
        """
        return writes.request_return(self.database, order_id, item_ids, payment_method_id)

    @tool
    async def think(self, thought: str) -> str:
        """Note a thought. Nothing is looked up, nothing changes.

        Args:
            thought: what you think
        """
        return ""

    @tool
    async def transfer_to_human_agents(self, summary: str) -> str:
        """Hand the user over to a human agent, when the user asks for one or the tools cannot help.
        It ends the conversation.

        Args:
            summary: what the user needs
        """
        if not summary.strip():
            raise ToolError("summary is empty; say what the user needs")
        self.is_transferred = True
        return "The user was transferred."
